"""Read the matrices of a model folder's blocks in parts: the same entries of all blocks at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames
from tasks.models.folder_tensors import tensors_of
from tasks.models.tensor_files import StoredTensor, read_header
from tasks.models.tensor_sources import FLOATS, read_entries

if TYPE_CHECKING:
    from torch import Tensor

PART_BYTES = 64 << 20
FLOAT64_BYTES = 8


@dataclass(frozen=True)
class Role:
    """The matrices of one name and shape, [rows, columns], or [experts, rows, columns] for several experts.

    name: within a block; blocks: the blocks that have it, ascending; tensors: one of each of these blocks.
    """

    name: str
    blocks: list[int]
    tensors: Sequence[StoredTensor]

    @property
    def num_entries(self) -> int:
        return prod(self.tensors[0].shape)

    def parts(self) -> "Iterator[Tensor]":
        """Yield the same entries of all matrices, [number of blocks, c], in their number format; 64 MB in float64."""
        import torch

        step = max(1, PART_BYTES // (FLOAT64_BYTES * len(self.blocks)))
        for begin in range(0, self.num_entries, step):
            end = min(begin + step, self.num_entries)
            yield torch.stack([read_entries(tensor, begin, end) for tensor in self.tensors])


def read_roles(folder: Path, num_blocks: int) -> list[Role]:
    """Read every matrix of the blocks, by name and shape, sorted by name; vectors and integers are left out.

    Raises:
        InputError: when the folder does not hold the weights of `num_blocks` blocks, or no matrix.
    """
    found: dict[tuple[str, tuple[int, ...]], dict[int, StoredTensor]] = defaultdict(dict)
    tensors_of = model_tensors(folder, num_blocks)
    for (block, name), tensor in tensors_of.items():
        if len(tensor.shape) in (2, 3) and tensor.dtype in FLOATS and tensor.num_bytes:
            found[name, tensor.shape][block] = tensor
    if not found:
        formats = ", ".join(sorted({tensor.dtype for tensor in tensors_of.values()}))
        raise InputError(f"{folder}: no block has a matrix of {', '.join(FLOATS)}; its tensors are {formats}")
    return [
        Role(name, sorted(tensors), [tensors[block] for block in sorted(tensors)])
        for (name, _), tensors in sorted(found.items(), key=lambda item: item[0][0])
    ]


def model_tensors(folder: Path, num_blocks: int) -> dict[tuple[int, str], StoredTensor]:
    """Return the tensors of the blocks of a model folder, by block and name within it.

    Raises:
        InputError: when the folder does not hold the weights of `num_blocks` blocks.
    """
    stored = tensors_of(folder)
    names = BlockNames(stored, num_blocks, folder)
    places = {name: names.place(name) for name in stored}
    return {(place.block, place.rest): stored[name] for name, place in places.items() if place}


def tuned_tensors(folder: Path) -> dict[tuple[int, str], StoredTensor]:
    """Return the tensors that a tuning returned, by block and name within it; those outside the blocks are left out."""
    parts = {name: (name.partition("."), tensor) for name, tensor in read_header(folder / TUNED_FILE).items()}
    return {(int(block), rest): tensor for (block, _, rest), tensor in parts.values() if block.isdigit()}


def squared_change(before: StoredTensor, after: StoredTensor, what: str) -> float:
    """Squared Frobenius distance of two matrices, summed in float64.

    Raises:
        InputError: when their shapes differ, or the sum is NaN or infinite.
    """
    if before.shape != after.shape or after.dtype not in FLOATS:
        raise InputError(
            f"{what} is {after.dtype} {list(after.shape)} after and {before.dtype} {list(before.shape)} before: these"
            " are not weights of the same model"
        )
    total, step, count = 0.0, PART_BYTES // FLOAT64_BYTES, prod(before.shape)
    for begin in range(0, count, step):
        parts = (read_entries(tensor, begin, min(begin + step, count)).double() for tensor in (before, after))
        first, second = parts
        total += float((second - first).square().sum())
    if not total < float("inf"):
        raise InputError(f"{what} holds NaN or infinite values after the change; check the weights")
    return total
