"""Strategies that look at what the model's blocks do, and the one that drops a block, looks again, and so on.

Words: N blocks, of which K are kept and m tuned. The *pool* is what a strategy chooses from: all blocks but those whose
tuning is decided ahead (see `pool_plan`). InputError for a budget that cannot be met.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, fixed_plan, pool_plan
from tasks.core.plan.placement import check_budget, place_tuned


def block_influence_plan(
    influence: Any,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Those that change their input most (ShortGPT, arXiv 2403.03853); of equal ones the lower.

    influence: [N] mean of 1 - cos(input, output) of each block.
    """
    values = [float(value) for value in influence]
    _require_finite(values, "influence")

    def choose(pool: Sequence[int], count: int) -> list[int]:
        return sorted(pool, key=lambda block: (-values[block], block))[:count]

    return pool_plan(len(values), num_kept, num_tuned, choose, placement, tuned, share)


def angular_plan(
    distance: Any,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """All but the run of N - K adjacent blocks that turns its input least (Gromov et al., arXiv 2403.17887).

    distance: [N+1, N+1] angular distance of the states, state 0 the embeddings; dropping blocks b..b+n-1 costs
    distance[b, b+n], the leftmost run of equal ones goes. InputError if the tuned blocks leave no run of that length.
    """
    num_blocks = len(distance) - 1

    def choose(pool: Sequence[int], count: int) -> list[int]:
        length = len(pool) - count
        begins = [block for block in pool if set(range(block, block + length)) <= set(pool)]
        if not begins:
            raise InputError(
                f"num_kept = {num_kept}: angular drops one run of {length} adjacent blocks, but between the tuned ones"
                " there is none so long; keep more blocks, or tune others (placement, tuned)"
            )
        costs = [float(distance[begin][begin + length]) for begin in begins]
        _require_finite(costs, "angular distance")
        begin = begins[costs.index(min(costs))]
        return [block for block in pool if not begin <= block < begin + length]

    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def single_plan(
    clusters: Sequence[Sequence[int]],
    num_tuned: int = 4,
    share: str | None = "all",
    placement: str = "centres",
    tuned: Sequence[int] = (),
) -> Plan:
    """The centre of each cluster, where clusters need not be adjacent blocks (CRaSh's single-forward variant).

    clusters: a partition of 0..N-1; the centre of the ascending c_0..c_{s-1} is c_{floor(s/2)}.
    """
    members = sorted(block for cluster in clusters for block in cluster)
    if not members or members != list(range(len(members))) or not all(clusters):
        raise InputError(f"clusters must hold each of blocks 0..N-1 once, and at least one each; got {clusters}")
    centres = sorted(sorted(cluster)[len(cluster) // 2] for cluster in clusters)
    return fixed_plan(len(members), centres, place_tuned(centres, num_tuned, placement, tuned), share)


def iterative_drop_plan(
    dropped: Sequence[int],
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = "all",
) -> Plan:
    """All but the first N - K of `dropped`, the blocks in the order in which `drop_iteratively` took them out."""
    gone = set(dropped[: num_blocks - num_kept])

    def choose(pool: Sequence[int], count: int) -> list[int]:
        left = [block for block in pool if block not in gone]
        if len(left) != count:
            raise InputError(f"{list(dropped)} were dropped with other tuned blocks, or from another model: drop anew")
        return left

    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def drop_iteratively(
    num_blocks: int,
    num_kept: int,
    adjacent: Callable[[list[int]], Sequence[float]],
    protected: Sequence[int] = (),
) -> list[int]:
    """Blocks in the order in which they are taken out until K remain (CRaSh's iterative variant).

    adjacent: of the blocks that are left, in order, the similarity a_i of the outputs of the i-th and the next; asked
    anew after every block. The one above the most alike boundary goes, the leftmost of equal ones; never the first
    block, nor a protected one. InputError for a budget that cannot be met.
    """
    check_budget(num_blocks, num_kept, num_kept)
    stay = {0, *protected}
    if num_kept < len(stay):
        raise InputError(
            f"num_kept = {num_kept}: iterative_drop never drops block 0 and the blocks that are tuned, {sorted(stay)};"
            f" keep at least {len(stay)}, or place the tuned blocks at the centres"
        )
    left, dropped = list(range(num_blocks)), list[int]()
    while len(left) > num_kept:
        similarity = adjacent(left)
        places = [place for place in range(1, len(left)) if left[place] not in stay]
        dropped.append(left.pop(max(places, key=lambda place: similarity[place - 1])))
    return dropped


def _require_finite(values: Sequence[float], what: str) -> None:
    broken = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
    if broken is not None:
        raise InputError(f"the {what} at place {broken} is not finite; check the captured states")
