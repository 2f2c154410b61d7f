"""Is a stack of blocks made of modules, and of how many?

Similarity falls with the distance between two blocks even where there are no modules, so what counts is how much more
alike two blocks of one module are than two blocks *at the same distance* that a boundary separates. Modules are runs of
adjacent blocks.

Sources: modularity: Newman 2006 (PNAS 103:8577); a null that keeps the decay with distance: Expert et al. 2011 (PNAS
108:7663); division by the modularity of perfect modules (assortativity): Newman 2003 (Phys. Rev. E 67:026126).
Similarity that is high inside modules of adjacent blocks: CRaSh, EMNLP 2023, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.core.clustering import Clusters, checked_similarity
from tasks.core.errors import InputError

MIN_BLOCKS = 3
SIGNIFICANCE = 0.05
# Gains that differ by less are rounding of float32 similarities.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Modularity:
    """score: of `modules`, the best cut into runs; see `modularity_score`. by_chance: its mean without modules.

    p_value: share of similarities without modules whose best cut gains as much. num_modules: what the matrix suggests;
    that is 1 where chance does as well. gains: [N], of the best cut into 1, 2, ... N modules, in units of similarity.
    """

    score: float
    by_chance: float
    p_value: float
    num_modules: int
    modules: Clusters
    gains: np.ndarray


def modularity(similarity: Any, num_shuffles: int = 200, seed: int = 0) -> Modularity:
    """The modular structure of an N x N similarity matrix of the blocks (larger is more alike), N >= 3.

    Chance: the entries of each diagonal are shuffled, which keeps the decay with distance and breaks up modules.
    Neighbouring entries of a real matrix are alike also where there are no modules, so `p_value` is a lower bound.
    Raises InputError for a matrix that is not square, symmetric and finite, or of fewer than 3 blocks.
    """
    matrix = _checked(similarity)
    modules, gains = best_modules(matrix)
    score = modularity_score(matrix, modules)
    generator = np.random.default_rng(seed)
    chance = [_shuffled_best(matrix, generator) for _ in range(num_shuffles)]
    reached = sum(gain >= gains.max() - ROUNDING for gain, _ in chance)
    p_value = (reached + 1) / (num_shuffles + 1)
    return Modularity(
        score=score,
        by_chance=float(np.mean([score for _, score in chance])),
        p_value=p_value,
        num_modules=len(modules) if p_value <= SIGNIFICANCE else 1,
        modules=modules,
        gains=gains,
    )


def modularity_score(similarity: Any, modules: Sequence[Sequence[int]]) -> float:
    """How much more alike two blocks of one module are than two of different modules at the same distance.

    Newman's modularity of the cut over that of perfect modules: sum over pairs inside modules of (similarity - mean
    similarity of all pairs at that distance), over the same sum for a matrix that is 1 inside and 0 across. It equals
    the mean over distances d of (mean inside - mean across), weighted by n_d w_d (1 - w_d) with n_d the pairs at d and
    w_d the share of them that is inside, so its unit is that of the similarity. 1: blocks of a module are the same and
    all others have nothing in common; 0: similarity depends on distance alone, or there is one module; below 0: blocks
    across boundaries are more alike.
    """
    matrix = _checked(similarity)
    inside = _inside(len(matrix), modules)
    upper = np.triu_indices(len(matrix), 1)
    perfect = float((_without_decay(inside.astype(float)) * inside)[upper].sum())
    if perfect <= ROUNDING:
        return 0.0
    return float((_without_decay(matrix) * inside)[upper].sum()) / perfect


def best_modules(similarity: Any) -> tuple[Clusters, np.ndarray]:
    """The cut into runs of adjacent blocks with the largest modularity, and the largest [N] for 1, 2, ... N runs.

    Exact, by dynamic programming, O(N^3). Of cuts that are equally good, the one with the fewest modules.
    """
    residual = _without_decay(_checked(similarity))
    num_blocks = len(residual)
    prefix = np.zeros((num_blocks + 1, num_blocks + 1))
    prefix[1:, 1:] = residual.cumsum(0).cumsum(1)
    edges = np.arange(num_blocks + 1)
    diagonal = prefix[edges, edges]
    # [begin, end]: gain of one module of blocks begin .. end - 1, each pair once (the diagonal of the residual is 0).
    gain = (diagonal[None, :] - prefix - prefix.T + diagonal[:, None]) / 2
    gain[edges[:, None] >= edges[None, :]] = -np.inf
    best = np.full((num_blocks + 1, num_blocks + 1), -np.inf)
    origin = np.zeros((num_blocks + 1, num_blocks + 1), dtype=int)
    best[0, 0] = 0.0
    for count in range(1, num_blocks + 1):
        totals = best[count - 1][:, None] + gain
        origin[count], best[count] = totals.argmax(axis=0), totals.max(axis=0)
    gains = best[1:, num_blocks]
    count = 1 + int(np.argmax(gains >= gains.max() - ROUNDING))
    cuts = [num_blocks]
    for number in range(count, 0, -1):
        cuts.append(int(origin[number, cuts[-1]]))
    return [list(range(begin, end)) for begin, end in pairwise(reversed(cuts))], gains


def _without_decay(matrix: np.ndarray) -> np.ndarray:
    """The matrix less the mean of each of its diagonals; its main diagonal, which says nothing, is 0."""
    places = np.subtract.outer(np.arange(len(matrix)), np.arange(len(matrix)))
    distance = np.abs(places)
    sums = np.bincount(distance.ravel(), weights=matrix.ravel())
    result = matrix - (sums / np.bincount(distance.ravel()))[distance]
    np.fill_diagonal(result, 0.0)
    return result


def _shuffled_best(matrix: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Gain and score of the best cut after shuffling each diagonal."""
    shuffled = np.zeros_like(matrix)
    for distance in range(1, len(matrix)):
        places = np.arange(len(matrix) - distance)
        shuffled[places, places + distance] = generator.permutation(np.diagonal(matrix, distance))
    shuffled += shuffled.T + np.diag(np.diagonal(matrix))
    modules, gains = best_modules(shuffled)
    return float(gains.max()), modularity_score(shuffled, modules)


def _inside(num_blocks: int, modules: Sequence[Sequence[int]]) -> np.ndarray:
    """[N, N]: whether two blocks are in one module."""
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
