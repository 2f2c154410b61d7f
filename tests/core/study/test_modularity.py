"""Modules against planted ones, exhaustive search over cuts, and what the score promises to be 0 and 1 for."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.core.study.modularity import Cuts, modularity, modularity_score

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


def design(size: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    """A column for every block and every distance."""
    rows = [
        [*(float(block in pair) for block in range(size)), *(float(pair[1] - pair[0] == step) for step in range(size))]
        for pair in pairs
    ]
    return np.array(rows)


def plain_gain(matrix: np.ndarray, modules: Modules) -> float:
    """Sum over pairs inside modules of what blocks and distances leave of the similarity."""
    pairs = list(combinations(range(len(matrix)), 2))
    values = np.array([matrix[pair] for pair in pairs])
    columns = design(len(matrix), pairs)
    left = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    inside = {pair for module in modules for pair in combinations(module, 2)}
    return sum(value for pair, value in zip(pairs, left, strict=True) if pair in inside)


def plain_coefficient(matrix: np.ndarray, modules: Modules) -> float:
    """The docstring's second reading: the coefficient of "in one module" in one regression with everything."""
    pairs = list(combinations(range(len(matrix)), 2))
    inside = {pair for module in modules for pair in combinations(module, 2)}
    together = np.array([[float(pair in inside)] for pair in pairs])
    columns = np.hstack([together, design(len(matrix), pairs)])
    return float(np.linalg.lstsq(columns, np.array([matrix[pair] for pair in pairs]), rcond=None)[0][0])


CUTS = [runs(4, 4, 4), runs(2, 7, 3), runs(6, 6), runs(1, 5, 3, 3)]


@pytest.mark.parametrize("modules", CUTS, ids=str)
def test_perfect_modules_score_one_and_are_found(modules: Modules) -> None:
    found = modularity(planted(modules))
    assert found.modules == modules
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
    assert found.modules == [list(range(16))]
    assert found.score == pytest.approx(0.0, abs=1e-9)
    assert len(found.cut) > 1


def test_levels_of_blocks_and_a_drift_that_slows_down_are_no_modules() -> None:
    levels = np.random.default_rng(0).random(16)
    found = modularity(decaying(16) + np.add.outer(levels, levels))
    assert len(found.modules) == 1
    assert found.score == pytest.approx(0.0, abs=1e-9)
    # Linear CKA of a random walk of states: what early blocks add is large against what is there.
    steps = np.arange(1, 25)
    walk = modularity(np.minimum.outer(steps, steps) / np.maximum.outer(steps, steps))
    assert len(walk.modules) == 1


def test_noise_around_a_decay_suggests_one_module_and_scores_as_chance_does() -> None:
    found = [modularity(noisy(decaying(16), 0.05, seed), seed=seed) for seed in range(20)]
    assert sum(len(one.modules) == 1 for one in found) >= 17, "one in twenty is expected to be taken for modules"
    scores, chance = (np.array([getattr(one, name) for one in found]) for name in ("score", "by_chance"))
    assert (scores > 0).all()
    assert scores.mean() == pytest.approx(chance.mean(), rel=0.2)


def test_the_score_knows_no_threshold_of_p() -> None:
    """From noise to modules in small steps: p falls below 0.05 on the way, and the score does not jump there."""
    steps = np.linspace(0.0, 0.2, 41)
    found = [modularity(noisy(planted(runs(5, 3, 8), inside=0.5 + step, across=0.5), 0.08, 3)) for step in steps]
    assert found[0].p_value > 0.05 > found[-1].p_value
    assert {len(one.modules) for one in found} >= {1, 3}
    for one in found:
        assert one.score > 0.01
        assert len(one.cut) > 1
        assert one.modules in (one.cut, [list(range(16))])
    gate = next(place for place, one in enumerate(found) if len(one.modules) > 1)
    assert found[gate].score - found[gate - 1].score < 0.02


def test_modules_are_found_under_noise() -> None:
    modules = runs(5, 3, 8)
    matrix = planted(modules, inside=0.9, across=0.6, decay=0.02)
    for seed in range(10):
        found = modularity(noisy(matrix, 0.05, seed), seed=seed)
        assert found.modules == modules
        assert found.score == pytest.approx(0.3, abs=0.06)
        assert found.score > 2 * found.by_chance


def test_the_best_cut_is_the_best_of_all() -> None:
    for seed in range(20):
        matrix = noisy(decaying(8), 0.3, seed)
        cuts = Cuts(matrix)
        by_count: dict[int, float] = {}
        for cut in every_cut(8):
            by_count[len(cut)] = max(by_count.get(len(cut), -np.inf), plain_gain(matrix, cut))
        np.testing.assert_allclose(cuts.gains, [by_count[count] for count in range(1, 9)], atol=1e-10)
        for count in by_count:
            assert len(cuts.into(count)) == count
            assert plain_gain(matrix, cuts.into(count)) == pytest.approx(by_count[count], abs=1e-10)


def test_the_score_is_the_coefficient_of_being_in_one_module() -> None:
    for seed in range(5):
        matrix = noisy(decaying(12), 0.2, seed)
        for modules in CUTS:
            assert modularity_score(matrix, modules) == pytest.approx(plain_coefficient(matrix, modules), abs=1e-10)


def test_blocks_more_alike_across_boundaries_score_below_zero() -> None:
    assert modularity_score(planted(runs(4, 4, 4), inside=0.2, across=0.7), runs(4, 4, 4)) == pytest.approx(-0.5)


def test_the_unit_is_that_of_the_similarity_and_a_shift_changes_nothing() -> None:
    matrix = noisy(planted(runs(4, 4, 4)), 0.1, 0)
    modules = Cuts(matrix).suggested()
    assert Cuts(0.25 * matrix + 3).suggested() == modules == runs(4, 4, 4)
    score = modularity_score(matrix, modules)
    assert modularity_score(0.25 * matrix + 3, modules) == pytest.approx(0.25 * score)


@pytest.mark.parametrize("size", [3, 4])
def test_of_a_few_blocks_nothing_is_said(size: int) -> None:
    found = modularity(noisy(decaying(size), 0.3, 0))
    assert (found.modules, found.score) == ([list(range(size))], 0.0)


def test_refusals() -> None:
    with pytest.raises(InputError, match="2 blocks are too few to tell modules apart"):
        modularity(np.eye(2))
    broken = decaying(6)
    broken[3, :] = broken[:, 3] = np.nan
    with pytest.raises(InputError, match="similarity of block 3 is not finite"):
        modularity(broken)
    with pytest.raises(InputError, match="must hold each of 6 blocks once"):
        modularity_score(decaying(6), runs(3, 2))
