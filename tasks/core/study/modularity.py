"""Modular structure of a stack of blocks: whether the blocks form modules, and how many.

Similarity falls with the distance between two blocks even without modules, and some blocks (mostly late ones) are more
similar to all others than the rest. So a module shows in how much more similar two of its blocks are than their
*distance* and the *level* of each of the two predict: similarity is modelled as a_i + a_j + f(|i - j|) by least
squares, and modules, which are runs of adjacent blocks, are found in the residuals.

Sources: modularity: Newman 2006 (PNAS 103:8577); a null that keeps each node's level and the decay with distance:
Expert et al. 2011 (PNAS 108:7663), here additive; division by the modularity of perfect modules (assortativity):
Newman 2003 (Phys. Rev. E 67:026126); number of runs: Schwarz 1978, Yao 1988 (Stat. Probab. Lett. 6:181). Similarity
that is high inside runs of blocks: CRaSh, EMNLP 2023, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.core.clustering import Clusters, checked_similarity
from tasks.core.errors import InputError

MIN_BLOCKS = 3
SIGNIFICANCE = 0.05
# Smaller differences between gains are rounding errors of float32 similarities.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Modularity:
    """Modular structure of the blocks of one model.

    cut: the best cut into two or more runs (`Cuts.best`); score: its `modularity_score`, whatever its p-value;
    by_chance: mean score of the best cuts of shuffled similarities; p_value: share of shuffles with a cut of at least
    the same modularity. modules: the cut, or a single module when chance does as well (p above 0.05) or the Schwarz
    criterion prefers one. Only `modules` depends on that threshold, so that scores of several models can be compared.
    gains: [N], modularity of the best cuts into 1, 2, ... N runs, in units of similarity.
    """

    score: float
    by_chance: float
    p_value: float
    cut: Clusters
    modules: Clusters
    gains: np.ndarray


def modularity(similarity: Any, num_shuffles: int = 200, seed: int = 0) -> Modularity:
    """Find the modular structure of an N x N similarity matrix of the blocks (larger means more similar), N >= 3.

    Under the null hypothesis, the entries of each diagonal are shuffled, which keeps the decay with distance and breaks
    up modules. Neighbouring entries of a real matrix are similar even without modules, so `p_value` is a lower bound: a
    small score with a small p means a drift that is not a sum of levels, not modules. Fewer than 6 blocks give too
    little evidence.

    Raises:
        InputError: when the matrix is not square, symmetric and finite, or N < 3.
    """
    matrix = _checked(similarity)
    cuts = Cuts(matrix)
    cut = cuts.best()
    generator = np.random.default_rng(seed)
    chance = [_shuffled(matrix, generator) for _ in range(num_shuffles)]
    reached = sum(gain >= cuts.gains.max() - ROUNDING for gain, _ in chance)
    p_value = float((reached + 1) / (num_shuffles + 1))
    return Modularity(
        score=modularity_score(matrix, cut),
        by_chance=float(np.mean([score for _, score in chance])),
        p_value=p_value,
        cut=cut,
        modules=cuts.suggested() if p_value <= SIGNIFICANCE else cuts.into(1),
        gains=cuts.gains,
    )


def modularity_score(similarity: Any, modules: Sequence[Sequence[int]]) -> float:
    """Excess similarity of two blocks that are in the same module, in the unit of the similarity.

    Newman's modularity of the cut, the sum over pairs inside modules of (similarity - prediction by distance and
    levels), divided by the same sum for a matrix that is 1 inside modules and 0 across. This is the coefficient of "in
    one module" in the least-squares regression of similarity on it, the distance and both blocks (Frisch, Waugh and
    Lovell). 1: blocks of a module are equal and all others have nothing in common; 0: distance and levels explain
    everything, or there is one module; below 0: blocks across boundaries are more similar. A cut that levels and
    distance explain fully (single blocks cut off at the ends; any cut of 3 or 4 blocks) scores 0.

    Raises:
        InputError: as `modularity`, or when `modules` is not a partition of the blocks.
    """
    matrix = _checked(similarity)
    inside = _inside(len(matrix), modules)
    upper = np.triu_indices(len(matrix), 1)
    perfect = float((_unexplained(inside.astype(float)) * inside)[upper].sum())
    if perfect <= ROUNDING:
        return 0.0
    return float((_unexplained(matrix) * inside)[upper].sum()) / perfect


class Cuts:
    """The best cuts of one similarity matrix [N, N] into 1, 2, ... N runs of adjacent blocks.

    gains: [N], the largest modularity of that many runs, in units of similarity, exact by dynamic programming, O(N^3).

    Raises:
        InputError: as `modularity`.
    """

    def __init__(self, similarity: Any) -> None:
        self._left = _unexplained(_checked(similarity))
        gain, size = _run_gains(self._left), len(self._left) + 1
        best = np.full((size, size), -np.inf)
        self._begin = np.zeros((size, size), dtype=int)
        best[0, 0] = 0.0
        for count in range(1, size):
            totals = best[count - 1][:, None] + gain
            self._begin[count], best[count] = totals.argmax(axis=0), totals.max(axis=0)
        self.gains = best[1:, -1]

    def into(self, num_modules: int) -> Clusters:
        """Return the best cut into that many runs."""
        edges = [len(self.gains)]
        for count in range(num_modules, 0, -1):
            edges.append(int(self._begin[count, edges[-1]]))
        return [list(range(begin, end)) for begin, end in pairwise(reversed(edges))]

    def suggested(self) -> Clusters:
        """Return the cut with the smallest Schwarz criterion: `best`, or one run if no cut explains more than noise."""
        return self.into(1 + int(np.argmin(self._schwarz())))

    def best(self) -> Clusters:
        """Return the cut into two or more runs with the smallest Schwarz criterion.

        The cut with the largest modularity would also cut off single blocks that explain no more than noise.
        """
        return self.into(2 + int(np.argmin(self._schwarz()[1:])))

    def _schwarz(self) -> np.ndarray:
        """Schwarz criterion of the best cuts into 1, 2, ... N runs, [N].

        It is pairs * log(mean square residual) + parameters * log(pairs). The parameters of K > 1 runs are K - 1
        boundaries and the score.
        """
        num_blocks = len(self.gains)
        upper = np.triu_indices(num_blocks, 1)
        inside = np.stack([_inside(num_blocks, self.into(count))[upper] for count in range(1, num_blocks + 1)])
        perfect = inside.sum(axis=1) - np.square(inside @ _explained(num_blocks)).sum(axis=1)
        explained = np.divide(self.gains**2, perfect, out=np.zeros(num_blocks), where=perfect > ROUNDING)
        square = (self._left[upper] ** 2).sum() - np.where(self.gains > 0, explained, 0.0)
        num_pairs = len(upper[0])
        parameters = np.where(np.arange(num_blocks) > 0, np.arange(1, num_blocks + 1), 0)
        return num_pairs * np.log(np.maximum(square / num_pairs, ROUNDING**2)) + parameters * np.log(num_pairs)


def _run_gains(left: np.ndarray) -> np.ndarray:
    """Modularity of the run of blocks begin .. end - 1, [N+1, N+1], from a two-dimensional prefix sum."""
    num_blocks = len(left)
    prefix = np.zeros((num_blocks + 1, num_blocks + 1))
    prefix[1:, 1:] = left.cumsum(0).cumsum(1)
    diagonal = np.diagonal(prefix)
    gain = (diagonal[None, :] - prefix - prefix.T + diagonal[:, None]) / 2
    edges = np.arange(num_blocks + 1)
    return np.where(edges[:, None] < edges[None, :], gain, -np.inf)


def _unexplained(matrix: np.ndarray) -> np.ndarray:
    """Residuals of the matrix after fitting a_i + a_j + f(|i - j|) to its pairs by least squares; main diagonal 0."""
    basis, upper = _explained(len(matrix)), np.triu_indices(len(matrix), 1)
    values = matrix[upper]
    result = np.zeros_like(matrix)
    result[upper] = values - basis @ (basis.T @ values)
    return result + result.T


@cache
def _explained(num_blocks: int) -> np.ndarray:
    """Orthonormal basis of all that the levels of blocks and the distances can explain, [pairs, rank]."""
    left, right = np.triu_indices(num_blocks, 1)
    pairs = np.arange(len(left))
    design = np.zeros((len(left), 2 * num_blocks - 1))
    design[pairs, left] = design[pairs, right] = 1.0
    design[pairs, num_blocks - 1 + right - left] = 1.0
    vectors, sizes, _ = np.linalg.svd(design, full_matrices=False)
    return vectors[:, sizes > 1e-9 * sizes[0]]


def _shuffled(matrix: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Largest modularity, and score of the best cut, after shuffling each diagonal."""
    shuffled = np.zeros_like(matrix)
    for distance in range(1, len(matrix)):
        places = np.arange(len(matrix) - distance)
        shuffled[places, places + distance] = generator.permutation(np.diagonal(matrix, distance))
    shuffled += shuffled.T + np.diag(np.diagonal(matrix))
    cuts = Cuts(shuffled)
    return float(cuts.gains.max()), modularity_score(shuffled, cuts.best())


def _inside(num_blocks: int, modules: Sequence[Sequence[int]]) -> np.ndarray:
    """Whether two blocks are in the same module, bool [N, N]."""
    if sorted(block for module in modules for block in module) != list(range(num_blocks)):
        raise InputError(f"modules {[list(module) for module in modules]} must hold each of {num_blocks} blocks once")
    label = np.empty(num_blocks, dtype=int)
    for number, module in enumerate(modules):
        label[list(module)] = number
    return label[:, None] == label[None, :]


def _checked(similarity: Any) -> np.ndarray:
    matrix = checked_similarity(similarity)
    if len(matrix) < MIN_BLOCKS:
        raise InputError(f"{len(matrix)} blocks are too few to tell modules apart; it takes at least {MIN_BLOCKS}")
    return matrix
