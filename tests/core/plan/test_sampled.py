"""Drawn blocks: fixed for a seed, and distributed as weights say, against sequential drawing written out in full."""

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from tasks.core.plan.layout import Plan
from tasks.core.plan.sampled import (
    draw,
    gaussian,
    inverse_normal_plan,
    left_normal_plan,
    normal_plan,
    random_plan,
    right_normal_plan,
)

PLANS = {
    "normal": normal_plan,
    "left_normal": left_normal_plan,
    "right_normal": right_normal_plan,
    "inverse_normal": inverse_normal_plan,
    "random": random_plan,
}
NUM_DRAWS = 4000


def inclusion(weights: Sequence[float], count: int) -> np.ndarray:
    """[places] probability of each place to be among `count` drawn one by one in proportion to what is left."""
    result = np.zeros(len(weights))

    def go(left: dict[int, float], still: int, probability: float) -> None:
        if not still or probability == 0:
            return
        total = sum(left.values())
        for place, weight in left.items():
            part = probability * weight / total
            result[place] += part
            go({other: value for other, value in left.items() if other != place}, still - 1, part)

    go(dict(enumerate(weights)), count, 1.0)
    return result


def density(size: int, mean: float) -> list[float]:
    """A normal density with a deviation of a quarter of the pool, by its formula."""
    deviation = size / 4
    return [
        math.exp(-((place - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
        for place in range(size)
    ]


def weights_of(name: str, size: int) -> list[float]:
    """What each strategy's docstring says."""
    middle = density(size, (size - 1) / 2)
    peak = 1 / (size / 4 * math.sqrt(2 * math.pi))
    return {
        "normal": middle,
        "left_normal": density(size, 0),
        "right_normal": density(size, size - 1),
        "inverse_normal": [peak - value for value in middle],
        "random": [1.0] * size,
    }[name]


def frozen(name: str, seed: int, num_blocks: int = 10, num_kept: int = 7, **options: object) -> Plan:
    return PLANS[name](num_blocks, num_kept, 4, seed=seed, **options)


@pytest.mark.parametrize("name", PLANS)
def test_blocks_are_drawn_as_often_as_their_weights_say(name: str) -> None:
    """Six blocks between the ends, three of them drawn; within five standard errors of the exact probabilities."""
    expected = inclusion(weights_of(name, 6), 3)
    counts = np.zeros(6)
    for seed in range(NUM_DRAWS):
        for block in frozen(name, seed).frozen:
            counts[block - 2] += 1
    error = np.sqrt(expected * (1 - expected) / NUM_DRAWS)
    assert (np.abs(counts / NUM_DRAWS - expected) <= 5 * error).all(), (counts / NUM_DRAWS, expected)


def test_where_the_weight_lies() -> None:
    """Of a larger pool, the mean of what is drawn, and for the two around the middle its spread."""
    drawn = {name: [b for seed in range(300) for b in frozen(name, seed, 44, 12).frozen] for name in PLANS}
    mean = {name: np.mean(blocks) for name, blocks in drawn.items()}
    assert mean["left_normal"] < 15 < 28 < mean["right_normal"]
    assert all(abs(mean[name] - 21.5) < 1 for name in ("normal", "inverse_normal", "random"))
    spread = {name: np.std(drawn[name]) for name in ("normal", "random", "inverse_normal")}
    assert all(low + 1 < high for low, high in pairwise(spread.values()))


# Written down: a seed must stay the same plan on every machine, with every package and release.
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("normal", (0, 1, 5, 7, 9, 10, 11, 13, 14, 17, 22, 23)),
        ("left_normal", (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 22, 23)),
        ("right_normal", (0, 1, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23)),
        ("inverse_normal", (0, 1, 2, 3, 4, 5, 6, 7, 17, 20, 22, 23)),
        ("random", (0, 1, 4, 5, 7, 9, 10, 13, 14, 17, 22, 23)),
    ],
)
def test_a_seed_is_a_plan(name: str, kept: tuple[int, ...]) -> None:
    assert PLANS[name](24, 12).kept == kept
    assert PLANS[name](24, 12, seed=1).kept != kept


@pytest.mark.parametrize("name", PLANS)
def test_the_largest_of_u_to_the_power_of_one_by_weight_are_drawn(name: str) -> None:
    """Efraimidis and Spirakis 2006, literally."""
    numbers = random.Random(5)
    keys = [(1 - numbers.random()) ** (1 / weight) for weight in weights_of(name, 20)]
    largest = sorted(range(20), key=lambda place: -keys[place])[:8]
    assert PLANS[name](24, 12, seed=5).frozen == tuple(sorted(place + 2 for place in largest))


def test_another_process_draws_the_same_whatever_its_hash_seed() -> None:
    code = "from tasks.core.plan.sampled import normal_plan; print(normal_plan(24, 12, seed=7).kept)"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "123")
    }
    assert answers == {f"{normal_plan(24, 12, seed=7).kept}\n"}


def test_the_middle_of_an_odd_pool_is_the_last_to_be_kept_by_inverse_normal() -> None:
    assert weights_of("inverse_normal", 7)[3] == pytest.approx(0)
    for seed in range(200):
        assert 5 not in frozen("inverse_normal", seed, 11, 10).kept
    assert frozen("inverse_normal", 0, 11, 11).kept == tuple(range(11))


def test_weights_without_any_weight() -> None:
    assert draw([0.0, 0.0, 1.0], 1, seed=0) == [2]
    assert draw([0.0, 0.0, 1.0], 2, seed=0) == [0, 2]
    assert draw([], 0, seed=0) == []


def test_gaussian_is_the_normal_density_up_to_a_factor() -> None:
    for size, mean in ((6, 2.5), (9, 0), (9, 8)):
        ratio = np.array(gaussian(size, mean)) / np.array(density(size, mean))
        np.testing.assert_allclose(ratio, ratio[0])
