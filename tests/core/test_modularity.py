"""Modules against planted ones, exhaustive search over cuts, and what the score promises to be 0 and 1 for."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.core.modularity import best_modules, modularity, modularity_score

Modules = list[list[int]]


def runs(*lengths: int) -> Modules:
    edges = np.cumsum([0, *lengths])
    return [list(range(begin, end)) for begin, end in pairwise(edges)]


def planted(modules: Modules, inside: float = 1.0, across: float = 0.0, decay: float = 0.0) -> np.ndarray:
    """`inside` between blocks of one module, `across` between others, less `decay` for every step between them."""
    size = sum(map(len, modules))
    label = np.concatenate([[number] * len(module) for number, module in enumerate(modules)])
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    matrix = np.where(np.equal.outer(label, label), inside, across) - decay * distance
    np.fill_diagonal(matrix, 1.0)
    return matrix


def decaying(size: int, rate: float = 0.1) -> np.ndarray:
    """Similarity that depends on the distance alone."""
    return np.exp(-rate * np.abs(np.subtract.outer(np.arange(size), np.arange(size))))


def noisy(matrix: np.ndarray, size: float, seed: int) -> np.ndarray:
    noise = np.triu(np.random.default_rng(seed).normal(0, size, matrix.shape), 1)
    return matrix + noise + noise.T


def every_cut(size: int) -> Iterator[Modules]:
    for count in range(size):
        for cuts in combinations(range(1, size), count):
            yield runs(*np.diff([0, *cuts, size]))


def plain_gain(matrix: np.ndarray, modules: Modules) -> float:
    """Sum over pairs inside modules of what they have above the mean of all pairs at that distance."""
    pairs = [pair for module in modules for pair in combinations(module, 2)]
    return sum(matrix[left, right] - np.diagonal(matrix, right - left).mean() for left, right in pairs)


def plain_contrast(matrix: np.ndarray, modules: Modules) -> float:
    """The docstring's second formula: inside less across at each distance, weighted by n w (1 - w)."""
    of = {block: number for number, module in enumerate(modules) for block in module}
    total = weights = 0.0
    for distance in range(1, len(matrix)):
        values = np.diagonal(matrix, distance)
        inside = np.array([of[block] == of[block + distance] for block in range(len(values))])
        if 0 < inside.sum() < len(values):
            weight = len(values) * inside.mean() * (1 - inside.mean())
            total += weight * (values[inside].mean() - values[~inside].mean())
            weights += weight
    return total / weights


CUTS = [runs(4, 4, 4), runs(2, 7, 3), runs(6, 6), runs(1, 5, 3, 3)]


@pytest.mark.parametrize("modules", CUTS, ids=str)
def test_perfect_modules_score_one_and_are_found(modules: Modules) -> None:
    found = modularity(planted(modules))
    assert found.modules == modules
    assert found.num_modules == len(modules)
    assert found.score == pytest.approx(1.0, abs=1e-12)
    assert found.p_value <= 0.01


@pytest.mark.parametrize("modules", CUTS, ids=str)
def test_the_score_is_what_modules_add_to_a_decay_with_distance(modules: Modules) -> None:
    found = modularity(planted(modules, inside=0.9, across=0.6, decay=0.04))
    assert found.modules == modules
    assert found.score == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5])
def test_a_decay_with_distance_alone_is_no_module(rate: float) -> None:
    found = modularity(decaying(16, rate))
    assert (found.num_modules, found.modules) == (1, [list(range(16))])
    assert found.score == 0.0


def test_noise_around_a_decay_suggests_one_module_and_scores_as_chance_does() -> None:
    found = [modularity(noisy(decaying(16), 0.05, seed), seed=seed) for seed in range(20)]
    assert sum(one.num_modules == 1 for one in found) >= 17, "one in twenty is expected to be taken for modules"
    excess = np.mean([one.score - one.by_chance for one in found])
    assert abs(excess) < 0.01


def test_modules_are_found_under_noise() -> None:
    modules = runs(5, 3, 8)
    matrix = planted(modules, inside=0.9, across=0.6, decay=0.02)
    for seed in range(10):
        found = modularity(noisy(matrix, 0.05, seed), seed=seed)
        assert (found.num_modules, found.modules) == (3, modules)
        assert found.score == pytest.approx(0.3, abs=0.06)
        assert found.score > 2 * found.by_chance


def test_the_best_cut_is_the_best_of_all() -> None:
    for seed in range(20):
        matrix = noisy(decaying(8), 0.3, seed)
        modules, gains = best_modules(matrix)
        by_count: dict[int, float] = {}
        for cut in every_cut(8):
            by_count[len(cut)] = max(by_count.get(len(cut), -np.inf), plain_gain(matrix, cut))
        np.testing.assert_allclose(gains, [by_count[count] for count in range(1, 9)], atol=1e-10)
        assert plain_gain(matrix, modules) == pytest.approx(max(by_count.values()), abs=1e-10)


def test_the_score_is_a_contrast_at_equal_distance() -> None:
    for seed in range(5):
        matrix = noisy(decaying(12), 0.2, seed)
        for modules in CUTS:
            assert modularity_score(matrix, modules) == pytest.approx(plain_contrast(matrix, modules), abs=1e-10)


def test_blocks_more_alike_across_boundaries_score_below_zero() -> None:
    assert modularity_score(planted(runs(4, 4, 4), inside=0.2, across=0.7), runs(4, 4, 4)) == pytest.approx(-0.5)


def test_the_unit_is_that_of_the_similarity_and_a_shift_changes_nothing() -> None:
    matrix = noisy(planted(runs(4, 4, 4)), 0.1, 0)
    modules, _ = best_modules(matrix)
    assert best_modules(0.25 * matrix + 3)[0] == modules
    score = modularity_score(matrix, modules)
    assert modularity_score(0.25 * matrix + 3, modules) == pytest.approx(0.25 * score)


def test_refusals() -> None:
    with pytest.raises(InputError, match="2 blocks are too few to tell modules apart"):
        modularity(np.eye(2))
    broken = decaying(6)
    broken[3, :] = broken[:, 3] = np.nan
    with pytest.raises(InputError, match="similarity of block 3 is not finite"):
        modularity(broken)
    with pytest.raises(InputError, match="must hold each of 6 blocks once"):
        modularity_score(decaying(6), runs(3, 2))
