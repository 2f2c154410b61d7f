"""The strategy that chooses blocks for their stand-ins: the removed runs that linear maps replace best.

Behind a kept, frozen block, a run of removed blocks has a linear stand-in (`tasks.core.stand_ins`), whose effect on the
loss is measured beforehand for every run. As each depends on one run alone, the best plan is a shortest path.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, fixed_plan
from tasks.core.plan.placement import check_budget, spread, tuned_before_selection


def spans_plan(
    effects: Any,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "centres",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Keep the K blocks whose removed runs have stand-ins with the smallest sum of effects; block 0 is kept.

    effects: [N, N]; effects[a][b] is that of the stand-in for blocks a+1..b behind block a, where a < b (see
    `tasks.core.stand_ins.effects`); infinite where there is none. Behind a tuned block no run is removed, since a
    stand-in changes the block in front of it. placement, tuned: see `pool_plan`; with "centres", tuned blocks are
    placed evenly among the kept ones while these are chosen. O(N^2 K). On a tie the lower blocks are kept.

    Raises:
        InputError: when the budget is impossible, or every plan needs a stand-in that there is not.
    """
    num_blocks = len(effects)
    check_budget(num_blocks, num_kept, 1)
    ahead = tuned_before_selection(num_blocks, num_tuned, placement, tuned)
    check_budget(num_blocks, num_kept, len(ahead) or num_tuned)
    places = () if ahead else spread(range(num_kept), num_tuned)

    def is_tuned(block: int, place: int) -> bool:
        return block in ahead if ahead else place in places

    def cost(block: int, place: int, following: int) -> float:
        """Cost of keeping `block` at this place and then `following`, or N, as the next one."""
        if following == block + 1:
            return 0.0
        if is_tuned(block, place) or any(block < each < following for each in ahead):
            return math.inf
        return float(effects[block][following - 1])

    return fixed_plan(
        num_blocks, kept := _shortest(num_blocks, num_kept, cost), ahead or spread(kept, num_tuned), share
    )


def require_stand_ins(plan: Plan) -> None:
    """Check that a linear map can stand in for some of the blocks that a plan removes, if it removes any.

    Raises:
        InputError: when every removed run follows a tuned block, or precedes all kept ones.
    """
    if plan.removed_runs and not plan.replaced_runs:
        raise InputError(
            'share = "linear": no linear stand-in is possible for removed blocks'
            f" {named_runs(plan.removed_runs, plan.tuned)}; choose placement or tuned so that a frozen block is in"
            " front of removed ones, strategy spans, or another share"
        )


def named_runs(runs: Sequence[tuple[int, int]], tuned: Sequence[int]) -> str:
    """Return runs without a stand-in, each as its blocks and the reason."""

    def reason(front: int) -> str:
        return f"block {front} in front is tuned" if front in tuned else "no block is in front"

    return ", ".join(f"{front + 1}-{last} ({reason(front)})" for front, last in runs)


def runs_up_to(num_blocks: int, longest: int) -> list[tuple[int, int]]:
    """Return every run of at most `longest` blocks, each as the block in front of it and its last block."""
    ends = [min(first + longest, num_blocks - 1) for first in range(num_blocks)]
    return [(first, last) for first, end in enumerate(ends) for last in range(first + 1, end + 1)]


def _shortest(num_blocks: int, num_kept: int, cost: Callable[[int, int, int], float]) -> list[int]:
    """Return the blocks of the cheapest path of `num_kept` blocks from block 0 to behind the last block."""
    # For each block: the least cost of a path that ends with it, and the path.
    paths: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}
    for place in range(num_kept - 1):
        longer = dict[int, tuple[float, tuple[int, ...]]]()
        for block, (spent, path) in paths.items():
            for following in range(block + 1, num_blocks):
                total = spent + cost(block, place, following)
                if total < math.inf:
                    longer[following] = min(longer.get(following, (math.inf, ())), (total, (*path, following)))
        paths = longer
    ends = [(spent + cost(block, num_kept - 1, num_blocks), path) for block, (spent, path) in paths.items()]
    total, path = min(ends, default=(math.inf, ()))
    if total == math.inf:
        raise InputError(
            f"num_kept = {num_kept}: every choice of blocks needs a stand-in behind a tuned block, or one that was not"
            " measured; keep more blocks, or tune others (placement, tuned)"
        )
    return list(path)
