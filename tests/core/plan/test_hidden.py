"""Hidden blocks: runs of equal length at three places, and where linear maps find a block to be folded into."""

import pytest

from tasks.core.errors import InputError
from tasks.core.plan.hidden import POSITIONS, known_around, plan_with_maps


def test_the_same_number_is_hidden_everywhere() -> None:
    assert known_around("bottom", 6, 2) == (2, 3, 4, 5)
    assert known_around("middle", 6, 2) == (0, 1, 4, 5)
    assert known_around("top", 6, 2) == (0, 1, 2, 3)
    # As many below as above, or one less.
    assert known_around("middle", 6, 3) == (0, 4, 5)
    for position in POSITIONS:
        for num_hidden in range(1, 7):
            assert len(known_around(position, 7, num_hidden)) == 7 - num_hidden


@pytest.mark.parametrize("num_hidden", [0, 6, 7])
def test_all_or_none_cannot_be_hidden(num_hidden: int) -> None:
    with pytest.raises(InputError, match=f"{num_hidden} hidden blocks: hide between 1 and 5 of 6 blocks"):
        known_around("top", 6, num_hidden)


def test_an_unknown_position_lists_the_choices() -> None:
    with pytest.raises(InputError, match="choose from bottom, middle, top"):
        known_around("left", 6, 2)


def test_maps_stand_in_wherever_a_known_block_is_in_front() -> None:
    assert plan_with_maps(6, (0, 1, 4, 5)).replaced_runs == ((1, 3),)
    assert plan_with_maps(6, (0, 1, 2, 3)).replaced_runs == ((3, 5),)
    assert plan_with_maps(6, (0, 3, 5)).replaced_runs == ((0, 2), (3, 4))
    # Every known block is in front of hidden ones: the shortest run is left out.
    assert plan_with_maps(6, (0, 4)).replaced_runs == ((0, 3),)


def test_no_map_stands_in_at_the_bottom() -> None:
    assert plan_with_maps(6, (2, 3, 4, 5)).replaced_runs == ()
