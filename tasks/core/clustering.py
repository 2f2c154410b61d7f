"""Clusters of similar blocks: runs of adjacent blocks, or blocks at any position."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tasks.core.errors import InputError

LINKAGES = ("boundary", "average", "complete", "optimal")
# Linkages that also work for clusters of blocks that are not adjacent.
FREE_LINKAGES = ("average", "complete")
Clusters = list[list[int]]


def adjacent_clusters(cka: Any, num_clusters: int, linkage: str = "boundary") -> Clusters:
    """Cut the blocks into K runs of adjacent blocks by an N x N similarity matrix (larger means more similar).

    boundary: merge across the boundary with the two most similar blocks, the leftmost on a tie (CRaSh, section 3.2);
    average, complete: merge the adjacent clusters with the largest mean or smallest-member similarity; optimal: the
    segmentation with the largest mean similarity within clusters, by dynamic programming, O(N^2 K).

    Raises:
        InputError: when the matrix is not square, symmetric and finite, the linkage is unknown, or the number of
            clusters is impossible.
    """
    matrix = checked_similarity(cka)
    num_blocks = len(matrix)
    if linkage not in LINKAGES:
        raise InputError(f"linkage = {linkage!r}; choose from {', '.join(LINKAGES)}")
    _check_number(num_clusters, num_blocks)
    if linkage == "boundary":
        return _cut(num_blocks, _weakest_boundaries(adjacent_similarity(matrix), num_clusters - 1))
    if linkage == "optimal":
        return _optimal(matrix, num_clusters)
    score = np.mean if linkage == "average" else np.min
    return _merge_greedily(matrix, num_clusters, lambda left, right: float(score(matrix[np.ix_(left, right)])))


def similar_clusters(similarity: Any, num_clusters: int, linkage: str = "average") -> Clusters:
    """Group the blocks into K clusters, adjacent or not, ordered by their first block, by an N x N similarity matrix.

    average, complete: merge the two clusters with the largest mean or smallest-member similarity, the leftmost two on a
    tie (agglomerative clustering; CRaSh's single-forward variant).

    Raises:
        InputError: as `adjacent_clusters`.
    """
    matrix = checked_similarity(similarity).copy()
    _check_number(num_clusters, len(matrix))
    if linkage not in FREE_LINKAGES:
        raise InputError(f"linkage = {linkage!r} of clusters that need not be adjacent; choose from average, complete")
    clusters: Clusters = [[index] for index in range(len(matrix))]
    np.fill_diagonal(matrix, -np.inf)
    while len(clusters) > num_clusters:
        left, right = sorted(np.unravel_index(np.argmax(matrix), matrix.shape))
        weights = np.array([len(clusters[left]), len(clusters[right])], dtype=float)
        both = matrix[[left, right]]
        merged = weights @ both / weights.sum() if linkage == "average" else both.min(axis=0)
        merged[left] = -np.inf
        matrix[left, :] = matrix[:, left] = merged
        matrix = np.delete(np.delete(matrix, right, axis=0), right, axis=1)
        clusters[left] = sorted(clusters[left] + clusters.pop(int(right)))
    return clusters


def adjacent_similarity(cka: Any) -> np.ndarray:
    """Similarities a_i of blocks i and i+1, [N-1]."""
    return np.diagonal(checked_similarity(cka), offset=1).copy()


def dendrogram(cka: Any) -> np.ndarray:
    """Linkage matrix [N-1, 4] of the boundary merges as in scipy, the most similar boundary first; heights are 1 - a_i.

    Only adjacent clusters merge, so the leaves stay in order and the heights never decrease: the drawn tree shows the
    same cuts as `adjacent_clusters`.
    """
    similarity = adjacent_similarity(cka)
    name = list(range(len(similarity) + 1))  # which scipy cluster holds block i now
    size = dict.fromkeys(name, 1)
    rows = []
    for step, boundary in enumerate(np.argsort(-similarity, kind="stable")):
        left, right = name[boundary], name[boundary + 1]
        new = len(similarity) + 1 + step
        size[new] = size[left] + size[right]
        rows.append([left, right, max(0.0, 1.0 - similarity[boundary]), size[new]])
        name = [new if current in (left, right) else current for current in name]
    return np.array(rows, dtype=float).reshape(-1, 4)


def checked_similarity(cka: Any) -> np.ndarray:
    """Return the matrix [N, N] in float64.

    Raises:
        InputError: when the matrix is not square, symmetric and finite.
    """
    matrix = np.asarray(cka.detach().cpu() if hasattr(cka, "detach") else cka, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InputError(f"the similarity matrix must be square, one row a block; its shape is {matrix.shape}")
    if not np.isfinite(matrix).all():
        # One broken block makes one entry of every other row not finite, and all entries of its own row.
        block = int(np.argmax((~np.isfinite(matrix)).sum(axis=1)))
        raise InputError(f"the similarity of block {block} is not finite; check its captured states")
    if not np.allclose(matrix, matrix.T, atol=1e-4):
        raise InputError("the similarity matrix must be symmetric")
    return matrix


def _weakest_boundaries(similarity: np.ndarray, count: int) -> list[int]:
    """Boundaries that remain after merging: the least similar, on a tie the rightmost (the leftmost merges first)."""
    by_merge_order = np.argsort(-similarity, kind="stable")
    return sorted(by_merge_order[len(similarity) - count :].tolist())


def _cut(num_blocks: int, boundaries: Sequence[int]) -> Clusters:
    edges = [0, *(boundary + 1 for boundary in boundaries), num_blocks]
    return [list(range(begin, end)) for begin, end in pairwise(edges)]


def _merge_greedily(matrix: np.ndarray, num_clusters: int, score: Callable[[list[int], list[int]], float]) -> Clusters:
    clusters: Clusters = [[index] for index in range(len(matrix))]
    while len(clusters) > num_clusters:
        scores = [score(left, right) for left, right in pairwise(clusters)]
        best = int(np.argmax(scores))
        clusters[best : best + 2] = [clusters[best] + clusters[best + 1]]
    return clusters


def _optimal(matrix: np.ndarray, num_clusters: int) -> Clusters:
    """Maximise the sum over clusters of (size x mean similarity of all its ordered pairs)."""
    num_blocks = len(matrix)
    value = _segment_values(matrix)
    best = np.full((num_clusters + 1, num_blocks + 1), -np.inf)
    begin = np.zeros((num_clusters + 1, num_blocks + 1), dtype=int)
    best[0, 0] = 0.0
    for count in range(1, num_clusters + 1):
        for end in range(count, num_blocks + 1):
            totals = best[count - 1, :end] + value[:end, end]
            begin[count, end] = int(np.argmax(totals))
            best[count, end] = totals[begin[count, end]]
    edges = [num_blocks]
    for count in range(num_clusters, 0, -1):
        edges.append(begin[count, edges[-1]])
    return _cut(num_blocks, [int(edge) - 1 for edge in reversed(edges[1:-1])])


def _segment_values(matrix: np.ndarray) -> np.ndarray:
    """[N+1, N+1]: size x mean similarity of blocks begin..end-1, from a two-dimensional prefix sum."""
    num_blocks = len(matrix)
    prefix = np.zeros((num_blocks + 1, num_blocks + 1))
    prefix[1:, 1:] = matrix.cumsum(0).cumsum(1)
    begin, end = np.meshgrid(range(num_blocks + 1), range(num_blocks + 1), indexing="ij")
    total = prefix[end, end] - prefix[begin, end] - prefix[end, begin] + prefix[begin, begin]
    size = np.maximum(end - begin, 1)
    return np.where(end > begin, total / size, -np.inf)


def _check_number(num_clusters: int, num_blocks: int) -> None:
    if not 1 <= num_clusters <= num_blocks:
        raise InputError(f"num_clusters = {num_clusters}: make between 1 and {num_blocks}, the number of blocks")
