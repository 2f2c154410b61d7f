"""Strategies that choose blocks by measurements of their states, once or again after each dropped block, or by scores.

Of N blocks, K are kept and m tuned. A strategy chooses from the *pool*: all blocks except those that are known to be
tuned before the others are chosen (see `pool_plan`). All plan functions raise InputError for an impossible budget.
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
    """Keep the blocks that change their input most (ShortGPT, arXiv 2403.03853), on a tie the lower ones.

    influence: [N], mean of 1 - cos(input, output) of each block.
    """
    choose = _highest(influence, "influence")
    return pool_plan(len(influence), num_kept, num_tuned, choose, placement, tuned, share)


def scaleot_plan(
    scores: Any,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = "harmonizers",
) -> Plan:
    """Keep the blocks with the highest scores (ScaleOT, arXiv 2412.09812), on a tie the lower ones.

    scores: [N], see `tasks.core.harmonizers.scores`. The description that this follows leaves open which of the kept
    blocks are tuned: placement, tuned as in `block_influence_plan`.
    """
    choose = _highest(scores, "score")
    return pool_plan(len(scores), num_kept, num_tuned, choose, placement, tuned, share)


def angular_plan(
    distance: Any,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Drop the run of N - K adjacent blocks that rotates its input least (Gromov et al., arXiv 2403.17887).

    distance: [N+1, N+1], angular distances of the states; state 0 is the embeddings. Dropping blocks b..b+n-1 costs
    distance[b, b+n]; on a tie the leftmost run is dropped.

    Raises:
        InputError: when no run of that length lies between the tuned blocks, or a distance is not finite.
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
    """Keep the centre of each cluster; clusters may hold blocks that are not adjacent (CRaSh's single-forward variant).

    clusters: a partition of 0..N-1. The centre of the ascending c_0..c_{s-1} is c_{floor(s/2)}.
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
    """Keep all blocks but the first N - K of `dropped`, which is the order in which `drop_iteratively` removed them."""
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
    """Drop blocks one at a time until K remain, and return them in that order (CRaSh's iterative variant).

    adjacent: takes the remaining blocks, in order, and returns the similarities a_i of the outputs of the i-th and the
    next; it is called again before every drop. The block above the most similar boundary is dropped, on a tie the
    leftmost; block 0 and protected blocks are never dropped.

    Raises:
        InputError: when the budget is impossible.
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


def _highest(measured: Any, what: str) -> Callable[[Sequence[int], int], list[int]]:
    """Return a choice of the blocks with the highest values. measured: [N]."""
    values = [float(value) for value in measured]
    _require_finite(values, what)
    return lambda pool, count: sorted(pool, key=lambda block: (-values[block], block))[:count]


def _require_finite(values: Sequence[float], what: str) -> None:
    broken = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
    if broken is not None:
        raise InputError(f"the {what} at place {broken} is not finite; check the captured states")
