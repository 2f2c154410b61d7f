"""Load one form of a model: the full model, the plug-in, or its emulator before or after tuning."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.core.blocks.streaming import StoredTensors


def load_variant(
    model: ModelSource, emulator: Path | None, tuned: Path | None, precision: str, device: str = "cpu"
) -> "PreTrainedModel":
    """Load the model that is scored, in evaluation mode.

    emulator, tuned: folders of artifacts.

    Raises:
        InputError: when tuned blocks do not fit the model they are put into.
    """
    from tasks.core.blocks.devices import place
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.folder import quiet_transformers
    from tasks.models.loading import load_model

    quiet_transformers()
    variant = load_model(model, precision) if emulator is None else load_emulator(emulator, dtype=precision)
    if tuned is not None:
        variant = _with_tuned(variant, tuned, model, in_emulator=emulator is not None)
    return place(variant, device).eval()


@contextmanager
def open_variant(
    model: ModelSource, emulator: Path | None, tuned: Path | None, precision: str, device: str, scratch: Path | None
) -> Iterator[tuple["PreTrainedModel", "StoredTensors | None"]]:
    """Yield the model that is scored, as `load_variant`, with None.

    Where a folder `scratch` is given, all but the tuned blocks of the full model or the plug-in stay on disk, and the
    stored tensors of its blocks come along (`open_streamed`); emulators are loaded whole.

    Raises:
        InputError: when tuned blocks do not fit, or as `open_streamed`.
    """
    if scratch is None or emulator is not None:
        yield load_variant(model, emulator, tuned, precision, device), None
        return
    from tasks.core.blocks.streaming import load_blocks
    from tasks.models.streamed import open_streamed
    from tasks.models.tuned_blocks import read_returned

    with open_streamed(model, precision, device, scratch) as (variant, tensors):
        if tuned is not None:
            returned = read_returned(tuned)
            load_blocks(variant, tensors, () if returned.variant.method == "prompt" else returned.plan.tuned)
            variant = _with_tuned(variant, tuned, model, in_emulator=False)
            variant._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
        yield variant, tensors


def _with_tuned(variant: "PreTrainedModel", folder: Path, model: ModelSource, in_emulator: bool) -> "PreTrainedModel":
    from tasks.core.tuning.returned import load_parts, plug_in_parts, validate_returned
    from tasks.models.tuned_blocks import read_returned

    returned = read_returned(folder)
    plan, how = returned.plan, returned.variant
    if in_emulator:
        load_parts(variant, returned.tuned | returned.kept, plan, how)
        return variant
    if plan.num_blocks != model.num_blocks:
        raise InputError(
            f"the tuned blocks are of a model with {plan.num_blocks} blocks, {model.name} has {model.num_blocks}"
        )
    return plug_in_parts(variant, validate_returned(returned.tuned, variant, plan, how), plan, how.admitted)
