"""Load one form of a model: the full model, the plug-in, or its emulator before or after tuning."""

from collections import ChainMap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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


def open_variant_streamed(
    model: ModelSource, tuned: Path | None, precision: str, device: str, scratch: Path
) -> tuple["PreTrainedModel", "StoredTensors"]:
    """Open the full model or the plug-in with its blocks on disk; return it and the tensors of its blocks.

    tuned: folder of blocks that are plugged in; scratch: as for `open_streamed`.

    Raises:
        InputError: when tuned blocks do not fit, or are adapters, which are modules of their own.
    """
    from tasks.core.blocks.locate_blocks import find_blocks
    from tasks.core.tuning.returned import plug_in_head, validate_returned
    from tasks.models.streamed import open_streamed
    from tasks.models.tuned_blocks import read_returned

    variant, tensors = open_streamed(model, precision, device, scratch)
    if tuned is None:
        return variant, tensors
    returned = read_returned(tuned)
    _require_same_depth(returned.plan.num_blocks, model)
    if returned.variant.method == "adapter":
        raise InputError(
            f'{model.name} with adapters cannot be loaded block by block; set place.stream_blocks = "never" on a'
            " machine with memory for the whole model"
        )
    admitted = validate_returned(returned.tuned, variant, returned.plan, returned.variant)
    blocks = plug_in_head(variant, admitted)
    path, _ = find_blocks(variant)
    return variant, ChainMap({f"{path}.{name}": tensor for name, tensor in blocks.items()}, cast(Any, tensors))


def _require_same_depth(num_blocks: int, model: ModelSource) -> None:
    if num_blocks != model.num_blocks:
        raise InputError(
            f"the tuned blocks are of a model with {num_blocks} blocks, {model.name} has {model.num_blocks}"
        )


def _with_tuned(variant: "PreTrainedModel", folder: Path, model: ModelSource, in_emulator: bool) -> "PreTrainedModel":
    from tasks.core.tuning.returned import load_parts, plug_in_parts, validate_returned
    from tasks.models.tuned_blocks import read_returned

    returned = read_returned(folder)
    plan, how = returned.plan, returned.variant
    _require_same_depth(plan.num_blocks, model)
    if not in_emulator:
        return plug_in_parts(variant, validate_returned(returned.tuned, variant, plan, how), plan, how.admitted)
    load_parts(variant, returned.tuned | returned.kept, plan, how)
    return variant
