"""Write an emulator folder whose stored frozen blocks are replaced by trained ones, in the stored number formats."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.emulator import COMPRESSION_FILE
from tasks.artifacts.plan import read_plan
from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames
from tasks.models.emulators.compressed_emulator import copy_the_rest, read_compression
from tasks.models.tensor_files import TensorSource, stored_tensors, write_tensors
from tasks.models.tensor_sources import DTYPES, ComputedTensor
from tasks.store.files import flush

if TYPE_CHECKING:
    from torch import Tensor


def keeps_zeros(folder: Path) -> bool:
    """Return whether the zeros of this emulator must stay, because it was pruned.

    Raises:
        InputError: when the emulator is quantised: training would move its weights off their levels.
    """
    how = read_compression(folder) or {}
    if how.get("method") == "quantise":
        raise InputError("distill: the emulator is quantised, and training would take its weights off their levels")
    return how.get("method") == "prune"


def require_places(folder: Path, state: "dict[str, Tensor]") -> None:
    """Check that each trained tensor is stored in the folder under its name and with its shape.

    Raises:
        InputError: when one is not.
    """
    shapes = {key: tensor.shape for _, key, tensor in _places(folder) if key is not None}
    if wrong := sorted(name for name, tensor in state.items() if shapes.get(name) != tuple(tensor.shape)):
        raise InputError(
            f"distill: {len(wrong)} tensors of the frozen blocks are stored in another way than they are run, first"
            f" {wrong[0]}; this family cannot be distilled"
        )


def write_distilled(folder: Path, state: "dict[str, Tensor]", out: Path) -> None:
    """Write the emulator of `folder` with the tensors of `state` into the empty folder `out`.

    state: `"{original block index}.{parameter name}"` to tensor.

    Raises:
        InputError: when a value is not finite in the stored number format.
    """
    tensors = [
        (name, _trained(name, stored.dtype, state[key]) if key is not None and key in state else stored)
        for name, key, stored in _places(folder)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, out)
    copy_the_rest(folder, out)
    if (folder / COMPRESSION_FILE).is_file():
        shutil.copyfile(folder / COMPRESSION_FILE, out / COMPRESSION_FILE)
        flush(out / COMPRESSION_FILE)
    flush(out)


def _places(folder: Path) -> Iterator[tuple[str, str | None, TensorSource]]:
    """Yield (name on disk, name in a state of frozen blocks, tensor); the second is None outside the frozen blocks."""
    plan, stored = read_plan(folder, "emulator"), stored_tensors(folder)
    names = BlockNames(stored, len(plan.kept), folder)
    for name, tensor in stored.items():
        place = names.place(name)
        source = plan.kept[place.block] if place else None
        yield name, f"{source}.{place.rest}" if place and source in plan.frozen else None, tensor


def _trained(name: str, dtype: str, tensor: "Tensor") -> ComputedTensor:
    import torch

    narrow = getattr(torch, next(ours for ours, theirs in DTYPES.items() if theirs == dtype))

    def compute() -> "Tensor":
        stored = tensor.detach().cpu().to(narrow)
        if not stored.isfinite().all():
            raise InputError(f"{name}: values are not finite in {dtype}; distill with a lower learning rate")
        return stored

    return ComputedTensor(dtype, tuple(tensor.shape), compute)
