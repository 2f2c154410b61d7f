"""Strategies other than `uniform` that depend only on the number of blocks.

Of N blocks, K are kept and m tuned. A strategy chooses from the *pool*: all blocks except those that are known to be
tuned before the others are chosen (see `pool_plan`). Every function takes `placement` ("ends", "centres", "explicit"),
`tuned` (for "explicit") and `share`, and raises InputError for an impossible budget.
"""

import math
from collections.abc import Sequence

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, pool_plan, uniform_plan
from tasks.core.plan.placement import evenly


def uniform_spread_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Keep K blocks evenly spaced over all N, and tune evenly spaced ones (CRaSh, Table 1, "uniform learnable")."""
    return uniform_plan(num_blocks, num_kept, num_tuned, placement, tuned, share)


def uniform_deviation_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    deviation: float = 0.0,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Keep evenly spaced blocks of the pool without its first share `deviation`, or without its last if negative.

    deviation: in (-1, 1). round(|deviation| M) of the pool's M blocks are left out, so that the kept blocks lie further
    to the right (positive) or left (negative).

    Raises:
        InputError: when `deviation` is out of range, or fewer blocks remain than are to be kept.
    """
    if not -1 < deviation < 1:
        raise InputError(f"deviation = {deviation}: give a share of the pool between -1 and 1, both excluded")

    def choose(pool: Sequence[int], count: int) -> list[int]:
        left_out = round(abs(deviation) * len(pool))
        rest = pool[left_out:] if deviation > 0 else pool[: len(pool) - left_out]
        if count > len(rest):
            most = math.floor(100 - 100 * count / len(pool)) / 100
            raise InputError(
                f"deviation = {deviation} leaves {len(rest)} of the {len(pool)} blocks that can be chosen, but {count}"
                f" are to be kept beside the tuned ones; deviate by at most {most}, or keep fewer"
            )
        return [rest[place] for place in evenly(len(rest), count)]

    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def reverse_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Keep the first blocks of the pool and drop the last (arXiv 2411.15558, "reverse-order")."""
    return pool_plan(num_blocks, num_kept, num_tuned, lambda pool, count: pool[:count], placement, tuned, share)
