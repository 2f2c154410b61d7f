"""Even spacing: by hand, against Offsite-Tuning's rule, and deviations that leave too few blocks."""

import pytest

from tasks.core.errors import InputError
from tasks.core.plan.layout import evenly, uniform_plan
from tasks.core.plan.spaced import reverse_plan, uniform_deviation_plan, uniform_spread_plan


def test_evenly_spaced_blocks_and_evenly_placed_tuned_ones() -> None:
    plan = uniform_spread_plan(24, 12)
    assert plan.kept == tuple(evenly(24, 12)) == (0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23)
    # The published places 0, 4, 8, 11 of twelve.
    assert plan.tuned == (0, 8, 17, 23)
    assert plan.share is None
    assert plan == uniform_plan(24, 12, placement="centres")
    assert uniform_spread_plan(24, 12, placement="ends") == uniform_plan(24, 12)


@pytest.mark.parametrize("num_blocks", [12, 24, 32])
def test_no_deviation_is_uniform(num_blocks: int) -> None:
    for num_kept in range(4, num_blocks + 1):
        assert uniform_deviation_plan(num_blocks, num_kept, deviation=0.0) == uniform_plan(num_blocks, num_kept)


def test_deviations_leave_out_a_share_of_the_pool() -> None:
    # Of the 20 blocks 2..21 between the ends, round(0.3 * 20) = 6 are left out.
    right = uniform_deviation_plan(24, 12, deviation=0.3)
    assert right.frozen == tuple(8 + place for place in evenly(14, 8))
    assert (right.frozen[0], right.frozen[-1], right.tuned) == (8, 21, (0, 1, 22, 23))
    left = uniform_deviation_plan(24, 12, deviation=-0.3)
    assert left.frozen == tuple(2 + place for place in evenly(14, 8))
    assert (left.frozen[0], left.frozen[-1], left.tuned) == (2, 15, (0, 1, 22, 23))


def test_deviation_may_leave_just_enough_and_no_fewer() -> None:
    assert uniform_deviation_plan(24, 12, deviation=0.6).frozen == tuple(range(14, 22))
    with pytest.raises(InputError, match=r"deviation = 0\.65 leaves 7 of the 20 blocks .* 8 .* at most 0\.6, or keep"):
        uniform_deviation_plan(24, 12, deviation=0.65)
    with pytest.raises(InputError, match=r"deviation = -1\.0: give a share of the pool between -1 and 1"):
        uniform_deviation_plan(24, 12, deviation=-1.0)


def test_reverse_drops_the_last() -> None:
    assert reverse_plan(24, 12).kept == tuple(range(12))
    assert reverse_plan(24, 12).tuned == (0, 4, 8, 11)
    assert reverse_plan(24, 12, placement="ends").kept == (*range(10), 22, 23)
    assert reverse_plan(8, 3, placement="explicit", tuned=(5,)).kept == (0, 1, 5)


def test_one_tuned_block_lies_at_the_upper_end_or_is_named() -> None:
    assert uniform_plan(6, 3, 1).tuned == (5,)
    with pytest.raises(InputError, match="num_tuned = 1: say which block, with placement explicit"):
        uniform_spread_plan(6, 3, 1)
