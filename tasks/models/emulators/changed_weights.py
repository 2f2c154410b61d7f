"""Changed weights of a compressed emulator, computed when they are written: in two factors, or as their product."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.core.compression.settings import is_worth_two
from tasks.core.errors import InputError
from tasks.models.emulators.resized_weights import INNER, OUTER
from tasks.models.tensor_files import StoredTensor, TensorSource
from tasks.models.tensor_sources import ComputedTensor, read_stored

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.blocks.factored import LinearShape

# Factorises a weight [out, in] into (outer, inner).
Decompose = Callable[["Tensor"], "tuple[Tensor, Tensor]"]


@dataclass
class Tally:
    """Counts and errors of the compression, collected while it is written."""

    errors: list[float] = field(default_factory=list)
    num_zeros: int = 0
    num_factored: int = 0
    num_channels: int = 0

    def see(self, before: "Tensor", after: "Tensor") -> "Tensor":
        """Record the relative error and the zeros of a changed weight, and return the weight."""
        from tasks.core.compression.methods import relative_error

        self.errors.append(relative_error(before, after))
        self.num_zeros += int((after == 0).sum())
        return after


def in_factors(
    name: str, stored: StoredTensor, shape: "LinearShape", rank: int, decompose: Decompose, tally: Tally
) -> list[tuple[str, TensorSource]]:
    """Return the weight in two factors; unchanged at full rank; as their product where that is smaller than both.

    rank: that of the factors which `decompose` returns.
    """
    if rank == min(shape.num_in, shape.num_out):
        return [(name, stored)]
    pair = _Pair(name, stored, shape.is_transposed, decompose, tally)
    if not is_worth_two(rank, shape.num_in, shape.num_out):
        return [(name, ComputedTensor(stored.dtype, stored.shape, pair.dense))]
    tally.num_factored += 1
    outer = ComputedTensor(stored.dtype, (shape.num_out, rank), pair.outer)
    inner = ComputedTensor(stored.dtype, (rank, shape.num_in), pair.inner)
    return [(name, outer), (name.removesuffix(OUTER) + INNER, inner)]


@dataclass
class _Pair:
    """Two factors of one decomposition, written one after the other."""

    name: str
    stored: StoredTensor
    is_transposed: bool
    decompose: Decompose
    tally: Tally
    kept: "Tensor | None" = None

    def outer(self) -> "Tensor":
        """Return the outer factor, [out, rank], and keep the inner one for the next call."""
        outer, self.kept = self._decompose()
        return outer

    def inner(self) -> "Tensor":
        """Return the inner factor, [rank, in]."""
        assert self.kept is not None, "the outer factor is written first"
        inner, self.kept = self.kept, None
        return inner

    def dense(self) -> "Tensor":
        """Return the product of both factors, in the orientation of the stored weight."""
        from tasks.core.compression.methods import product

        dense = product(*self._decompose())
        return dense.T.contiguous() if self.is_transposed else dense

    def _decompose(self) -> "tuple[Tensor, Tensor]":
        import torch

        from tasks.core.compression.methods import product

        weight = read_stored(self.stored)
        weight = weight.T if self.is_transposed else weight
        try:
            pair = self.decompose(weight)
        except torch.linalg.LinAlgError as error:
            raise InputError(f"{self.name}: the weight cannot be decomposed ({error})") from None
        self.tally.see(weight, product(*pair))
        return pair
