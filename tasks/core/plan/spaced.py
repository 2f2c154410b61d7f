"""Strategies that look at nothing but the number of blocks, beside `uniform` itself.

Words: N blocks, of which K are kept and m tuned. The *pool* is what a strategy chooses from: all blocks but those whose
tuning is decided ahead (see `pool_plan`). Every function takes `placement` ("ends", "centres", "explicit"), `tuned`
(for "explicit") and `share`, and raises InputError for a budget that cannot be met.
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
    """K blocks evenly spaced over all N, evenly placed ones tuned (CRaSh, Table 1, "uniform learnable")."""
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
    """Evenly spaced over the pool without its first share `deviation`, or, where that is negative, without its last.

    deviation: in (-1, 1); round(|deviation| M) of the pool's M blocks are left out, so that what is kept lies further
    to the right (positive) or left. InputError if fewer are left than are to be kept.
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
    """The first of the pool: the last blocks are dropped (arXiv 2411.15558, "reverse-order")."""
    return pool_plan(num_blocks, num_kept, num_tuned, lambda pool, count: pool[:count], placement, tuned, share)
