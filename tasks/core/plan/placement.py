"""Placement of the tuned blocks: fixed before the other blocks are chosen, or taken from the chosen ones.

Sources: Offsite-Tuning (arXiv 2302.04870), section 3.2 ("ends"); CRaSh (arXiv 2310.15477), section 3.2 ("centres").
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from tasks.core.errors import InputError

Placement = Literal["ends", "centres", "explicit"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


def tuned_before_selection(
    num_blocks: int, num_tuned: int, placement: str, tuned: Sequence[int] = ()
) -> tuple[int, ...]:
    """Tuned blocks that are known before the others are chosen ("ends", "explicit"); empty for "centres".

    Raises:
        InputError: when the placement is unknown, or the budget or the explicit blocks are impossible.
    """
    if placement not in PLACEMENTS:
        raise InputError(f"placement = {placement!r}; choose from {', '.join(PLACEMENTS)}")
    if placement == "ends":
        check_budget(num_blocks, num_blocks, num_tuned)
        return ends(range(num_blocks), num_tuned)
    if placement == "explicit":
        chosen = tuple(sorted(tuned))
        check_indices("tuned", chosen, num_blocks)
        return chosen
    return ()


def place_tuned(
    centres: Sequence[int], num_tuned: int, placement: str = "centres", tuned: Sequence[int] = ()
) -> tuple[int, ...]:
    """Choose the tuned blocks from the sorted centres, for strategies that choose the kept blocks first.

    "centres": evenly spaced; "ends": the first floor(m/2) and the last m - floor(m/2) centres; "explicit": the blocks
    in `tuned`.

    Raises:
        InputError: when an explicit block is not a centre; the message lists the centres. Also when the budget is
            impossible or the placement is unknown.
    """
    if placement == "centres":
        return spread(centres, num_tuned)
    if placement == "ends":
        check_budget(len(centres), len(centres), num_tuned)
        return ends(centres, num_tuned)
    if placement != "explicit":
        raise InputError(f"placement = {placement!r}; choose from {', '.join(PLACEMENTS)}")
    if outside := sorted(set(tuned) - set(centres)):
        raise InputError(f"tuned block {outside[0]} is not the centre of a cluster; the centres are {list(centres)}")
    return tuple(sorted(tuned))


def ends(blocks: Sequence[int], num_tuned: int) -> tuple[int, ...]:
    """The first floor(m/2) and the last m - floor(m/2) of these blocks."""
    low = num_tuned // 2
    return (*blocks[:low], *blocks[len(blocks) - (num_tuned - low) :])


def spread(kept: Sequence[int], num_tuned: int) -> tuple[int, ...]:
    """Choose the tuned blocks from the sorted kept ones, at p_j = ceil(j (K-1) / (m-1)) (CRaSh's published plans).

    Raises:
        InputError: when the budget is impossible, or num_tuned is 1.
    """
    check_budget(len(kept), len(kept), num_tuned)
    if num_tuned == 1:
        raise InputError(
            "num_tuned = 1: say which block, with placement explicit (or strategy fixed) and an explicit list of tuned"
            " blocks, or place them at the ends"
        )
    places = [math.ceil(j * (len(kept) - 1) / (num_tuned - 1)) for j in range(num_tuned)]
    return tuple(kept[place] for place in places)


def evenly(num_places: int, num_chosen: int) -> list[int]:
    """Choose `num_chosen` of 0..num_places-1, evenly spaced and including both ends; a single choice is the middle."""
    if num_chosen == 1:
        return [num_places // 2]
    return [round(i * (num_places - 1) / (num_chosen - 1)) for i in range(num_chosen)]


def check_budget(num_blocks: int, num_kept: int, num_tuned: int) -> None:
    """Check a budget.

    Raises:
        InputError: unless 1 <= num_tuned <= num_kept <= num_blocks.
    """
    if not 1 <= num_kept <= num_blocks:
        raise InputError(f"num_kept = {num_kept}: keep between 1 and {num_blocks}, the number of blocks")
    if not 1 <= num_tuned <= num_kept:
        raise InputError(f"num_tuned = {num_tuned}: tune between 1 and {num_kept}, the number of kept blocks")


def check_indices(name: str, indices: tuple[int, ...], num_blocks: int) -> None:
    """Check a list of block indices. `name`: its name in the error message.

    Raises:
        InputError: when the list is empty, not strictly ascending, or leaves 0..num_blocks-1.
    """
    if not indices:
        raise InputError(f"plan: {name} is empty; name at least one block")
    if list(indices) != sorted(set(indices)):
        raise InputError(f"plan: {name} = {list(indices)} must be ascending without repetition")
    if indices[0] < 0 or indices[-1] >= num_blocks:
        raise InputError(f"plan: {name} = {list(indices)} leaves 0..{num_blocks - 1}, the blocks of the model")
