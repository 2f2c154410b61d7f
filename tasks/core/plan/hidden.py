"""Hidden blocks: those of the full model that an emulator does not have, and plans that fill them in.

Source: "Archilles' Heel in Semi-open LLMs: Hiding Bottom against Recovery Attacks" (arXiv 2410.11182), which compares
what comes back when blocks at the bottom, in the middle or at the top are hidden.
"""

from typing import Literal, get_args

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, fixed_plan

Position = Literal["bottom", "middle", "top"]
POSITIONS: tuple[Position, ...] = get_args(Position)


def known_around(position: str, num_blocks: int, num_hidden: int) -> tuple[int, ...]:
    """Return the blocks that stay known when a run of `num_hidden` blocks is hidden.

    position: "bottom" for the blocks behind the embeddings, "top" for those in front of the head, "middle" for those
    with as many known ones below as above, or one less below.

    Raises:
        InputError: when the position is unknown, no block would be hidden, or none would stay known.
    """
    first = {"bottom": 0, "middle": (num_blocks - num_hidden) // 2, "top": num_blocks - num_hidden}.get(position)
    if first is None:
        raise InputError(f"position = {position!r}; choose from {', '.join(POSITIONS)}")
    if not 1 <= num_hidden < num_blocks:
        raise InputError(f"{num_hidden} hidden blocks: hide between 1 and {num_blocks - 1} of {num_blocks} blocks")
    return (*range(first), *range(first + num_hidden, num_blocks))


def plan_with_maps(num_blocks: int, known: tuple[int, ...]) -> Plan:
    """Return the plan in which linear maps stand in for as many hidden blocks as possible.

    A map is folded into the known block in front of a hidden run, unless that one is tuned. Every plan tunes a block:
    here one that is in front of no hidden run, or else of the shortest.
    """
    without = fixed_plan(num_blocks, known, known[-1:])
    lengths = {front: last - front for front, last in without.removed_runs}
    tuned = min(reversed(known), key=lambda block: lengths.get(block, 0))
    return fixed_plan(num_blocks, known, (tuned,), "linear")
