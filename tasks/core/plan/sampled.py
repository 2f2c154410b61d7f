"""Strategies that draw blocks without replacement, the same ones for a seed on every machine and with every package.

Weights are over places in the pool: all blocks but those whose tuning is decided ahead (see `pool_plan`). Named in the
code of both papers; `inverse_normal` as it was meant. InputError for a budget that cannot be met.
"""

import math
import random
from collections.abc import Callable, Sequence

from tasks.core.plan.layout import Plan, pool_plan

# Of the pool's size: wide enough that every block can be drawn, narrow enough that the middle or an end shows.
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
    """Drawn around the middle of the pool: Gaussian weights with a deviation of a quarter of the pool."""
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
    """Drawn around the pool's first block: Gaussian weights with a deviation of a quarter of the pool."""
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
    """Drawn around the pool's last block: Gaussian weights with a deviation of a quarter of the pool."""
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
    """Drawn away from the middle of the pool: weights are the peak of `normal`'s density minus that density.

    The middle block of an odd pool has weight 0: it is kept only where all others are.
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
    """Drawn from the pool, every block alike."""
    choose = _sampled(seed, lambda size: [1.0] * size)
    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def draw(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """`count` places, ascending, drawn one after another with probabilities in proportion to what is left.

    weights: not negative. A place of weight 0 is taken only when all others are. Efraimidis and Spirakis 2006: the
    largest keys u^(1/w), here as log(u) / w, with u from Python's own generator, whose numbers for a seed are fixed.
    """
    numbers = random.Random(seed)
    keys = []
    for weight in weights:
        u = 1.0 - numbers.random()  # in (0, 1]
        keys.append(math.log(u) / weight if weight > 0 else -math.inf)
    order = sorted(range(len(keys)), key=lambda place: (-keys[place], place))
    return sorted(order[:count])


def gaussian(size: int, mean: float) -> list[float]:
    """Density, up to a factor, at places 0..size-1 of a Gaussian around the place `mean`; its peak is 1."""
    deviation = size / DEVIATIONS_A_POOL
    return [math.exp(-(((place - mean) / deviation) ** 2) / 2) for place in range(size)]


def _sampled(seed: int, weigh: Callable[[int], list[float]]) -> Callable[[Sequence[int], int], list[int]]:
    def choose(pool: Sequence[int], count: int) -> list[int]:
        return [pool[place] for place in draw(weigh(len(pool)), count, seed)]

    return choose
