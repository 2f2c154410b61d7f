"""Plans from what blocks do: by hand, against exhaustive search, and dropping one block after another."""

from itertools import pairwise

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.core.plan.by_similarity import (
    angular_plan,
    block_influence_plan,
    drop_iteratively,
    iterative_drop_plan,
    scaleot_plan,
    single_plan,
)
from tasks.core.plan.layout import Plan


def test_the_most_influential_blocks_are_kept() -> None:
    plan = block_influence_plan([0.9, 0.1, 0.5, 0.2, 0.3, 0.8], 4, 2)
    assert (plan.kept, plan.tuned, plan.share) == ((0, 2, 4, 5), (0, 5), None)
    # With the ends tuned they need no influence.
    assert block_influence_plan([0.0, 0.1, 0.5, 0.2, 0.3, 0.0], 4, 2, placement="ends").kept == (0, 2, 4, 5)
    assert block_influence_plan([0.1, 0.3, 0.3, 0.3], 2, 2).kept == (1, 2), "of equal ones the lower"


def test_the_blocks_with_the_highest_scores_are_kept() -> None:
    plan = scaleot_plan([0.4, -0.1, 0.0, 0.3, -0.2, 0.4], 3, 2)
    assert (plan.kept, plan.tuned, plan.share) == ((0, 3, 5), (0, 5), "harmonizers")
    assert plan.layout == ((0, True), (3, False), (5, True)), "harmonizers have no positions"
    assert scaleot_plan([0.0, 0.1, 0.2, 0.3, 0.2, 0.0], 4, 2, placement="ends").kept == (0, 2, 3, 5)


def angular_of_runs(turns: list[float], num_kept: int, num_tuned: int) -> Plan:
    return angular_plan(np.diag(turns, 1), num_kept, num_tuned)


@pytest.mark.parametrize("make", [block_influence_plan, scaleot_plan, angular_of_runs])
def test_what_is_not_finite_is_named(make) -> None:
    with pytest.raises(InputError, match="at place 1 is not finite"):
        make([0.1, float("nan"), 0.3, 0.4], 3, 2)


def cheapest_run(distance: np.ndarray, length: int, tuned: tuple[int, ...]) -> tuple[int, ...]:
    """What is left when the run with the smallest turn, of all that hold no tuned block, is dropped."""
    num_blocks = len(distance) - 1
    runs = [range(begin, begin + length) for begin in range(num_blocks - length + 1)]
    allowed = [run for run in runs if not set(run) & set(tuned)]
    best = min(allowed, key=lambda run: distance[run.start, run.start + length])
    return tuple(block for block in range(num_blocks) if block not in best)


@pytest.mark.parametrize(
    ("placement", "tuned"), [("centres", ()), ("ends", (0, 11)), ("explicit", (2,)), ("explicit", (0, 9, 10))]
)
def test_the_run_that_turns_its_input_least_is_dropped(placement: str, tuned: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for num_kept in range(6, 13):
        for _ in range(20):
            values = generator.random((13, 13))
            distance = values + values.T
            plan = angular_plan(distance, num_kept, 2, placement, tuned)
            assert plan.kept == cheapest_run(distance, 12 - num_kept, tuned)


def test_angular_by_hand() -> None:
    distance = np.ones((7, 7))
    distance[1, 3] = 0.2  # dropping blocks 1 and 2
    distance[3, 5] = 0.2  # dropping blocks 3 and 4
    assert angular_plan(distance, 4, 2).kept == (0, 3, 4, 5)
    assert angular_plan(distance, 4, placement="explicit", tuned=(2,)).kept == (0, 1, 2, 5)
    with pytest.raises(InputError, match=r"num_kept = 4: angular drops one run of 2 adjacent .* none so long"):
        angular_plan(distance, 4, placement="explicit", tuned=(1, 3, 4))


def test_centres_of_clusters_that_are_not_adjacent() -> None:
    plan = single_plan([[0, 4, 7], [1, 2], [3, 6], [5]], num_tuned=2)
    assert (plan.kept, plan.tuned, plan.share, plan.num_blocks) == ((2, 4, 5, 6), (2, 6), "all", 8)
    assert single_plan([[0, 4, 7], [1, 2], [3, 6], [5]], 3, placement="ends").tuned == (2, 5, 6)


@pytest.mark.parametrize("clusters", [[], [[0], [0, 1]], [[0], [2]], [[0, 1], []], [[1], [2]]])
def test_clusters_that_are_no_partition(clusters: list) -> None:
    with pytest.raises(InputError, match=r"each of blocks 0\.\.N-1 once"):
        single_plan(clusters, 1)


def test_dropping_follows_the_rule_and_asks_again_each_time() -> None:
    """Similarities that change with what is left: the lead of block 3 over its neighbour goes when 4 is gone."""
    asked = []

    def adjacent(left: list[int]) -> list[float]:
        asked.append(list(left))
        return [{(3, 4): 0.9, (0, 1): 0.6, (3, 5): 0.1}.get(pair, 0.3) for pair in pairwise(left)]

    assert drop_iteratively(6, 3, adjacent) == [4, 1, 2]
    assert asked == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5], [0, 2, 3, 5]]


def test_without_anything_to_tell_blocks_apart_the_lowest_above_the_first_goes() -> None:
    flat = lambda left: [0.0] * (len(left) - 1)  # noqa: E731
    assert drop_iteratively(6, 3, flat) == [1, 2, 3]
    assert drop_iteratively(6, 3, flat, protected=(1, 3)) == [2, 4, 5]
    assert drop_iteratively(6, 6, flat) == []


def test_dropped_blocks_make_a_plan() -> None:
    plan = iterative_drop_plan([4, 1, 2], 6, 3, 2)
    assert (plan.kept, plan.tuned, plan.share) == ((0, 3, 5), (0, 5), "all")
    assert iterative_drop_plan([4, 1, 2], 6, 5, 2).kept == (0, 1, 2, 3, 5), "the first that were dropped"
    with pytest.raises(InputError, match="dropped with other tuned blocks"):
        iterative_drop_plan([4, 1], 6, 4, placement="explicit", tuned=(4,))


def test_budgets_that_no_order_meets() -> None:
    flat = lambda left: [0.0] * (len(left) - 1)  # noqa: E731
    with pytest.raises(InputError, match=r"never drops block 0 .*\[0, 2, 4\]; keep at least 3"):
        drop_iteratively(6, 2, flat, protected=(2, 4))
    with pytest.raises(InputError, match="num_kept = 7: keep between 1 and 6"):
        drop_iteratively(6, 7, flat)
