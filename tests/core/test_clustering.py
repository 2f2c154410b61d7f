"""Clusters against literal versions of the published rules and exhaustive search."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import cut_tree, fcluster, is_valid_linkage
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import squareform

from tasks.core.clustering import LINKAGES, adjacent_clusters, adjacent_similarity, dendrogram, similar_clusters
from tasks.core.errors import InputError

Clusters = list[list[int]]


def random_matrix(generator: np.random.Generator, size: int, ties: bool) -> np.ndarray:
    """A symmetric matrix with ones on the diagonal; with ties, of a few values only."""
    values = generator.integers(0, 4, (size, size)) / 4 if ties else generator.random((size, size))
    matrix = np.triu(values, 1)
    return matrix + matrix.T + np.eye(size)


def literal_boundary(matrix: np.ndarray, num_clusters: int) -> Clusters:
    """CRaSh, section 3.2, step by step: merge the neighbours whose touching blocks are most alike, leftmost first."""
    clusters = [[block] for block in range(len(matrix))]
    while len(clusters) > num_clusters:
        best, place = -1.0, -1
        for index in range(len(clusters) - 1):
            score = matrix[clusters[index][-1], clusters[index + 1][0]]
            if score > best:
                best, place = score, index
        clusters[place] = clusters[place] + clusters.pop(place + 1)
    return clusters


def literal_linkage(matrix: np.ndarray, num_clusters: int, linkage: str) -> Clusters:
    """Merge the neighbours with the largest mean, or largest smallest, similarity of their pairs."""
    clusters = [[block] for block in range(len(matrix))]
    while len(clusters) > num_clusters:
        scores = []
        for left, right in pairwise(clusters):
            pairs = [matrix[a, b] for a in left for b in right]
            scores.append(sum(pairs) / len(pairs) if linkage == "average" else min(pairs))
        place = scores.index(max(scores))
        clusters[place] = clusters[place] + clusters.pop(place + 1)
    return clusters


def within(matrix: np.ndarray, clusters: Clusters) -> float:
    """Mean over blocks of the mean similarity to their own cluster."""
    return sum(matrix[np.ix_(cluster, cluster)].mean() * len(cluster) for cluster in clusters) / len(matrix)


@pytest.mark.parametrize("ties", [False, True])
def test_boundary_equals_a_literal_greedy_merge(ties):
    generator = np.random.default_rng(0)
    for _ in range(3000):
        size = int(generator.integers(2, 25))
        matrix = random_matrix(generator, size, ties)
        num_clusters = int(generator.integers(1, size + 1))
        assert adjacent_clusters(matrix, num_clusters) == literal_boundary(matrix, num_clusters)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("linkage", ["average", "complete"])
def test_linkages_equal_literal_merges(linkage, ties):
    generator = np.random.default_rng(1)
    for _ in range(300):
        size = int(generator.integers(2, 16))
        matrix = random_matrix(generator, size, ties)
        num_clusters = int(generator.integers(1, size + 1))
        expected = literal_linkage(matrix, num_clusters, linkage)
        assert adjacent_clusters(matrix, num_clusters, linkage) == expected


def test_optimal_is_the_best_of_all_segmentations():
    generator = np.random.default_rng(2)
    for _ in range(100):
        size = int(generator.integers(2, 10))
        matrix = random_matrix(generator, size, ties=False)
        num_clusters = int(generator.integers(1, size + 1))
        every = [
            [list(range(a, b)) for a, b in pairwise((0, *cuts, size))]
            for cuts in combinations(range(1, size), num_clusters - 1)
        ]
        found = adjacent_clusters(matrix, num_clusters, "optimal")
        assert within(matrix, found) == pytest.approx(max(within(matrix, clusters) for clusters in every), abs=1e-12)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_clusters_are_runs_that_cover_every_block(linkage):
    matrix = random_matrix(np.random.default_rng(3), 17, ties=False)
    for num_clusters in range(1, 18):
        clusters = adjacent_clusters(matrix, num_clusters, linkage)
        assert len(clusters) == num_clusters
        assert [block for cluster in clusters for block in cluster] == list(range(17))


@pytest.mark.parametrize("linkage", LINKAGES)
def test_two_clear_groups_are_found(linkage):
    matrix = np.full((6, 6), 0.1)
    matrix[:2, :2] = matrix[2:, 2:] = 0.9
    np.fill_diagonal(matrix, 1.0)
    assert adjacent_clusters(matrix, 2, linkage) == [[0, 1], [2, 3, 4, 5]]


def test_dendrogram_cuts_to_the_boundary_clusters():
    generator = np.random.default_rng(4)
    matrix = random_matrix(generator, 12, ties=False)
    tree = dendrogram(matrix)
    assert is_valid_linkage(tree)
    assert sorted(tree[:, 2]) == tree[:, 2].tolist()
    for num_clusters in range(1, 13):
        flat = fcluster(tree, num_clusters, "maxclust")
        expected = adjacent_clusters(matrix, num_clusters)
        assert [len(cluster) for cluster in expected] == np.bincount(flat)[1:][np.argsort(first_seen(flat))].tolist()


def test_dendrogram_by_hand():
    # Similarities of neighbours 0.5, 0.9, 0.5: 1 and 2 merge first, then of the two equal ones the left.
    matrix = np.eye(4)
    for block, similarity in enumerate((0.5, 0.9, 0.5)):
        matrix[block, block + 1] = matrix[block + 1, block] = similarity
    expected = [[1, 2, 0.1, 2], [0, 4, 0.5, 3], [5, 3, 0.5, 4]]
    np.testing.assert_allclose(dendrogram(matrix), expected, atol=1e-12)


def test_dendrogram_of_blocks_alike_beyond_rounding_has_no_height_below_zero():
    matrix = np.full((3, 3), 1 + 1e-6)
    assert dendrogram(matrix)[:, 2].tolist() == [0.0, 0.0]
    assert is_valid_linkage(dendrogram(matrix))


def test_a_single_block_has_no_merges():
    assert dendrogram([[1.0]]).shape == (0, 4)
    for linkage in LINKAGES:
        assert adjacent_clusters([[1.0]], 1, linkage) == [[0]]


@pytest.mark.parametrize("linkage", LINKAGES)
def test_lists_and_tensors_are_as_good_as_arrays(linkage):
    matrix = random_matrix(np.random.default_rng(6), 9, ties=False)
    expected = adjacent_clusters(matrix, 4, linkage)
    assert adjacent_clusters(matrix.tolist(), 4, linkage) == expected
    assert adjacent_clusters(torch.tensor(matrix).requires_grad_(), 4, linkage) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("block", [0, 3, 5])
def test_the_broken_block_is_named_not_those_compared_with_it(block, value):
    matrix = random_matrix(np.random.default_rng(7), 6, ties=False)
    matrix[block] = matrix[:, block] = value
    with pytest.raises(InputError, match=f"block {block} is not finite"):
        adjacent_clusters(matrix, 2)


def first_seen(labels: np.ndarray) -> list[int]:
    """Position at which each label first occurs."""
    return [int(np.argmax(labels == label)) for label in range(1, labels.max() + 1)]


def test_adjacent_similarity_is_the_first_diagonal():
    matrix = random_matrix(np.random.default_rng(5), 5, ties=False)
    assert adjacent_similarity(matrix).tolist() == [matrix[i, i + 1] for i in range(4)]


@pytest.mark.parametrize(
    ("matrix", "num_clusters", "linkage", "message"),
    [
        (np.eye(4), 5, "boundary", "num_clusters = 5: make between 1 and 4"),
        (np.eye(4), 0, "boundary", "num_clusters = 0"),
        (np.eye(4), 2, "single", "choose from boundary, average, complete, optimal"),
        (np.ones((2, 3)), 1, "boundary", "must be square"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), 1, "boundary", "block 0 is not finite"),
        (np.array([[1.0, 0.2], [0.8, 1.0]]), 1, "boundary", "symmetric"),
        (np.array([[1.0, 0.2], [0.201, 1.0]]), 1, "boundary", "symmetric"),
        (np.ones((0, 0)), 1, "boundary", "must be square"),
        (np.ones(4), 1, "boundary", "must be square"),
    ],
)
def test_refusals(matrix, num_clusters, linkage, message):
    with pytest.raises(InputError, match=message):
        adjacent_clusters(matrix, num_clusters, linkage)


@pytest.mark.parametrize("linkage", ["average", "complete"])
def test_free_clusters_are_those_of_scipy(linkage):
    generator = np.random.default_rng(5)
    apart = 0
    for _ in range(200):
        size = int(generator.integers(2, 25))
        matrix = random_matrix(generator, size, ties=False)
        num_clusters = int(generator.integers(1, size + 1))
        labels = cut_tree(scipy_linkage(squareform(1 - matrix), linkage), num_clusters)[:, 0]
        expected = sorted(np.flatnonzero(labels == label).tolist() for label in set(labels))
        found = similar_clusters(matrix, num_clusters, linkage)
        assert found == expected
        apart += any(cluster != list(range(cluster[0], cluster[-1] + 1)) for cluster in found)
    assert apart > 100, "most are no runs of adjacent blocks"


def test_free_clusters_of_equal_blocks_merge_from_the_left():
    assert similar_clusters(np.ones((4, 4)), 3) == [[0, 1], [2], [3]]
    assert similar_clusters(torch.ones(4, 4), 2, "complete") == [[0, 1, 2], [3]]


@pytest.mark.parametrize(
    ("matrix", "num_clusters", "linkage", "message"),
    [
        (np.eye(3), 4, "average", "num_clusters = 4: make between 1 and 3"),
        (np.eye(3), 0, "average", "num_clusters = 0"),
        (np.eye(3), 2, "boundary", "choose from average, complete"),
        (np.full((3, 3), np.nan), 2, "average", "not finite"),
    ],
)
def test_free_clusters_that_cannot_be(matrix, num_clusters, linkage, message):
    with pytest.raises(InputError, match=message):
        similar_clusters(matrix, num_clusters, linkage)
