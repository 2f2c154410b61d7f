"""Tuned models as points around an initial one: the tensors that differ, by the parameter names of the whole model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.tuned_blocks import read_returned

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def load_tuned_model(model: "PreTrainedModel", folder: Path, name: str) -> "tuple[PreTrainedModel, list[int]]":
    """Return (full model with a tuning's blocks plugged in, indices of these blocks); it shares all else with `model`.

    folder: written by `tune` or `plug_in`.

    Raises:
        InputError: when the folder is not a tuning, does not fit the model, or is not finite; names the point.
    """
    from tasks.core.blocks.surgery import get_blocks
    from tasks.core.tuning.returned import plug_in_parts, validate_returned

    try:
        returned = read_returned(folder)
    except InputError as error:
        raise InputError(f"point {name!r}: {error}; give a folder that `tune` or `plug_in` wrote") from error
    plan, variant = returned.plan, returned.variant
    if plan.num_blocks != (num_blocks := len(get_blocks(model))):
        raise InputError(
            f"point {name!r} is a tuning of a model with {plan.num_blocks} blocks, the initial model has {num_blocks}"
        )
    try:
        state = validate_returned(returned.tuned, model, plan, variant)
    except InputError as error:
        raise InputError(f"point {name!r} does not fit the initial model: {error}") from None
    plugged = plug_in_parts(model, state, plan, variant.admitted).eval()
    return plugged, variant.returned_sources(plan)


def load_points(model: "PreTrainedModel", folders: Mapping[str, Path | None]) -> "dict[str, dict[str, Tensor]]":
    """Return, for each point, the tensors that differ from the initial model's; none for a folder that is None.

    Raises:
        InputError: when two points are the same model, or one has parameters that the initial model lacks (adapters).
    """
    import torch

    from tasks.core.study.interpolation import differences

    found: dict[str, dict[str, Tensor]] = {name: {} for name in folders}
    for name, folder in folders.items():
        if folder is not None:
            found[name] = differences(model, load_tuned_model(model, folder, name)[0], name)
    names = list(found)
    for place, name in enumerate(names):
        for other in names[:place]:
            own, theirs = found[name], found[other]
            if own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own):
                raise InputError(f"points {other!r} and {name!r} are the same model: nothing lies between them")
    return found
