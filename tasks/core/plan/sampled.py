"""Strategies that draw blocks without replacement; a seed gives the same blocks on every machine with any packages.

Weights are over the pool: all blocks except those that are known to be tuned before the others are chosen (see
`pool_plan`). The names come from the code of both papers; `inverse_normal` follows their intention. All plan functions
raise InputError for an impossible budget.
"""

import math
import random
from collections.abc import Callable, Sequence

from tasks.core.plan.layout import Plan, pool_plan

# Standard deviations in one pool: wide enough that every block can be drawn, narrow enough to favour the middle or end.
DEVIATIONS_A_POOL = 4


def normal_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    seed: int = 0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Draw around the middle of the pool: Gaussian weights with a standard deviation of a quarter of the pool."""
    choose = _sampled(seed, lambda size: gaussian(size, (size - 1) / 2))
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def left_normal_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    seed: int = 0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Draw around the first block of the pool: Gaussian weights with a standard deviation of a quarter of the pool."""
    choose = _sampled(seed, lambda size: gaussian(size, 0))
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def right_normal_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    seed: int = 0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Draw around the last block of the pool: Gaussian weights with a standard deviation of a quarter of the pool."""
    choose = _sampled(seed, lambda size: gaussian(size, size - 1))
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def inverse_normal_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    seed: int = 0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Draw away from the middle of the pool: the weights are the peak of `normal`'s density minus that density.

    The middle block of an odd pool has weight 0, so it is kept only when all others are.
    """
    choose = _sampled(seed, lambda size: [1 - weight for weight in gaussian(size, (size - 1) / 2)])
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def random_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    seed: int = 0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Draw from the pool with equal weights."""
    choose = _sampled(seed, lambda size: [1.0] * size)
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def draw(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """Draw `count` places without replacement, each with a probability in proportion to the remaining weights.

    Returns the places in ascending order. weights: not negative; a place of weight 0 is drawn only when all others are.
    Efraimidis and Spirakis 2006: take the largest keys u^(1/w), here log(u) / w, with u from Python's own generator,
    whose sequence for a seed does not change.
    """
    numbers = random.Random(seed)
    keys = []
    for weight in weights:
        u = 1.0 - numbers.random()  # in (0, 1]
        keys.append(math.log(u) / weight if weight > 0 else -math.inf)
    order = sorted(range(len(keys)), key=lambda place: (-keys[place], place))
    return sorted(order[:count])


def gaussian(size: int, mean: float) -> list[float]:
    """Unnormalised Gaussian density around `mean`, with peak 1, at places 0..size-1."""
    deviation = size / DEVIATIONS_A_POOL
    return [math.exp(-(((place - mean) / deviation) ** 2) / 2) for place in range(size)]


def _sampled(seed: int, weigh: Callable[[int], list[float]]) -> Callable[[Sequence[int], int], list[int]]:
    def choose(pool: Sequence[int], count: int) -> list[int]:
        return [pool[place] for place in draw(weigh(len(pool)), count, seed)]

    return choose
