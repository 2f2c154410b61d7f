"""Statistics of the blocks' matrices: norm, variance, and distances between blocks or before and after a tuning.

Matrices are compared entry by entry. The neurons of two blocks have no common order, so a large distance does not mean
that the blocks compute different things; a small one means that they are (nearly) the same. Frobenius distances of
blocks' matrices: CRaSh, EMNLP 2023, published code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.errors import InputError


@dataclass(frozen=True)
class MatrixStatistics:
    """Statistics of one matrix in N blocks.

    norms: [N], Frobenius norms; variances: [N], variances of the entries; distances: [N, N], Frobenius distances.
    """

    norms: Tensor
    variances: Tensor
    distances: Tensor


class BlockMatrices:
    """Streaming statistics of the same matrix in N blocks, all in float64.

    name, blocks: the name of the matrix and the numbers of the blocks in error messages.
    """

    def __init__(self, name: str, blocks: list[int]) -> None:
        self.name, self.blocks = name, blocks
        self._products = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)
        self._sums = torch.zeros(len(blocks), dtype=torch.float64)
        self._count = 0

    def update(self, part: Tensor) -> None:
        """Add the same entries of all matrices, [N, c].

        Raises:
            InputError: when an entry is NaN or infinite; the message names the block.
        """
        entries = part.double()
        if (broken := (~entries.isfinite()).any(dim=1).nonzero().flatten().tolist()) != []:
            raise InputError(
                f"{self.name} of block {self.blocks[broken[0]]} holds NaN or infinite values; check the model's weights"
            )
        self._products += (entries @ entries.T).cpu()
        self._sums += entries.sum(dim=1).cpu()
        self._count += entries.shape[1]

    def result(self) -> MatrixStatistics:
        """Return the statistics of all entries so far.

        Distances come from |A - B|^2 = <A, A> + <B, B> - 2 <A, B>, so that one product serves all pairs and every byte
        is read once. They are exact to about 1e-8 of the norms, and may not be exactly 0 for equal matrices.
        """
        assert self._count, "no entry of the matrices was given"
        squares = self._products.diagonal()
        variances = (squares / self._count - (self._sums / self._count).square()).clamp(min=0.0)
        square = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * self._products
        distances = square.clamp(min=0.0).sqrt().fill_diagonal_(0.0)
        return MatrixStatistics(squares.sqrt(), variances, distances)


def relative_distance(distances: Tensor, norms: Tensor) -> Tensor:
    """Relative distance |A - B| / sqrt(|A|^2 + |B|^2): 0 for equal matrices, 1 for orthogonal, sqrt(2) for opposite.

    distances: [..., N, N]; norms: [..., N]. When both matrices are 0, the distance is 0.
    """
    square = norms.square()
    size = (square.unsqueeze(-1) + square.unsqueeze(-2)).sqrt()
    return torch.where(size == 0, 0.0, distances / size)
