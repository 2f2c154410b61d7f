"""Plans against the published ones, the rules of the papers, and bad input."""

import json
import random
from itertools import pairwise

import pytest

from tasks.core.errors import InputError
from tasks.core.plan.layout import (
    REPEATING,
    SHARES,
    Plan,
    crash_plan,
    evenly,
    fixed_plan,
    full_plan,
    make_layout,
    spread,
    uniform_plan,
)

# CRaSh (EMNLP 2023), appendix: model and task, number of blocks, kept blocks, tuned ones.
PUBLISHED = {
    "OPT-1.3B arc_easy": (24, (0, 1, 2, 3, 5, 9, 12, 15, 18, 20, 22, 23), (0, 5, 18, 23)),
    "OPT-1.3B hellaswag": (24, (0, 1, 2, 3, 5, 8, 10, 11, 12, 17, 22, 23), (0, 5, 12, 23)),
    "OPT-1.3B openbookqa": (24, (0, 1, 4, 6, 8, 10, 12, 15, 19, 21, 22, 23), (0, 8, 19, 23)),
    "OPT-6.7B": (
        32,
        (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 20, 22, 23, 24, 27, 30, 31),
        (0, 8, 17, 31),
    ),
}


def clusters_with_centres(num_blocks: int, centres: tuple[int, ...]) -> list[list[int]]:
    """Runs of adjacent blocks whose centres c_{floor(s/2)} are the given ones, by search from the left."""

    def cut(begin: int, remaining: tuple[int, ...]) -> list[list[int]] | None:
        if not remaining:
            return [] if begin == num_blocks else None
        for end in range(max(begin, remaining[0]) + 1, num_blocks + 1):
            run = list(range(begin, end))
            if run[len(run) // 2] == remaining[0] and (rest := cut(end, remaining[1:])) is not None:
                return [run, *rest]
        return None

    found = cut(0, centres)
    assert found is not None, "the published blocks are no centres of any clustering"
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_plans(name):
    num_blocks, kept, tuned = PUBLISHED[name]
    plan = crash_plan(clusters_with_centres(num_blocks, kept), num_tuned=4)
    assert plan.kept == kept
    assert plan.tuned == tuned


def test_worked_example_of_sharing():
    _, kept, tuned = PUBLISHED["OPT-1.3B arc_easy"]
    expected = "0 1 2 3 5* 5 5* 9 9 9 9 12 12 12 15 15 15 18* 18 20 20 22 22 23"
    layout = make_layout(24, kept, tuned, "all")
    shown = [f"{source}*" if source in tuned and not trained else str(source) for source, trained in layout]
    assert " ".join(shown) == expected
    frozen_only = make_layout(24, kept, tuned, "frozen_only")
    changed = {place: frozen_only[place] for place in range(24) if frozen_only[place] != layout[place]}
    assert changed == {4: (3, False), 6: (9, False), 17: (15, False)}


def test_offsite_tuning_places_as_published():
    plan = uniform_plan(24, num_kept=12, num_tuned=4)
    assert plan.tuned == (0, 1, 22, 23)
    # Places 2, 5, ... are counted among the 20 middle blocks, which begin at block 2.
    assert [block - 2 for block in plan.frozen] == evenly(20, 8)
    assert evenly(20, 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert plan.kept == (0, 1, 2, 5, 7, 10, 13, 16, 18, 21, 22, 23)
    assert plan.share is None


def test_uniform_plans_by_hand():
    # Half-even rounding: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2 would repeat a place if it were ever reached with a step below 1.
    assert evenly(6, 3) == [0, 2, 5]
    assert evenly(4, 3) == [0, 2, 3]
    assert evenly(7, 1) == [3]
    assert uniform_plan(12, num_kept=5) == fixed_plan(12, (0, 1, 6, 10, 11), (0, 1, 10, 11))
    assert uniform_plan(12, num_kept=4).kept == (0, 1, 10, 11)
    # The odd one is at the top.
    assert uniform_plan(12, num_kept=4, num_tuned=3).tuned == (0, 10, 11)


@pytest.mark.parametrize(("num_kept", "places"), [(12, (0, 4, 8, 11)), (22, (0, 7, 14, 21))])
def test_tuned_places_among_the_kept(num_kept, places):
    assert spread(range(num_kept), 4) == places


def test_tuned_places_are_as_many_as_asked_and_hold_both_ends():
    for num_kept in range(2, 40):
        for num_tuned in range(2, num_kept + 1):
            kept = [3 * index for index in range(num_kept)]
            tuned = spread(kept, num_tuned)
            assert len(set(tuned)) == num_tuned
            assert list(tuned) == sorted(tuned)
            assert (tuned[0], tuned[-1]) == (kept[0], kept[-1])
            assert set(tuned) <= set(kept)


@pytest.mark.parametrize("share", SHARES)
def test_laws_of_random_plans(share):
    random_numbers = random.Random(0)
    for _ in range(500):
        num_blocks = random_numbers.randint(2, 40)
        kept = sorted(random_numbers.sample(range(num_blocks), random_numbers.randint(2, num_blocks)))
        tuned = sorted(random_numbers.sample(kept, random_numbers.randint(1, len(kept))))
        plan = fixed_plan(num_blocks, kept, tuned, share)
        assert sorted((*plan.frozen, *plan.tuned)) == kept
        assert len(plan.layout) == (num_blocks if share in REPEATING else len(kept))
        assert [source for source, trained in plan.layout if trained] == tuned, "each tuned block trains in one place"
        assert {source for source, _ in plan.layout} == set(kept)
        assert Plan.from_json(plan.to_json()) == plan
        removed = [each for front, last in plan.removed_runs for each in range(front + 1, last + 1)]
        assert removed == [each for each in range(num_blocks) if each not in kept]
        assert all(front == -1 or front in kept for front, _ in plan.removed_runs)
        if share in REPEATING:
            check_nearest(plan)


def check_nearest(plan: Plan) -> None:
    """A stand-in is the nearest kept block, the higher of two equally near; frozen_only takes a frozen neighbour."""
    for place, (source, trained) in enumerate(plan.layout):
        if place in plan.kept:
            assert (source, trained) == (place, place in plan.tuned)
            continue
        neighbours = [max((k for k in plan.kept if k < place), default=None)]
        neighbours += [min((k for k in plan.kept if k > place), default=None)]
        there = [k for k in neighbours if k is not None]
        nearest = min(there, key=lambda k: (abs(k - place), -k))
        if plan.share == "frozen_only" and nearest in plan.tuned and len(there) == 2:
            frozen = [k for k in there if k not in plan.tuned]
            assert source == (frozen[0] if frozen else nearest)
        else:
            assert source == nearest


@pytest.mark.parametrize("num_blocks", [6, 12, 24, 32, 48])
def test_uniform_keeps_what_was_asked_for(num_blocks):
    for num_kept in range(2, num_blocks + 1):
        for num_tuned in range(1, min(num_kept, 6) + 1):
            plan = uniform_plan(num_blocks, num_kept, num_tuned)
            assert len(plan.kept) == num_kept
            assert len(plan.tuned) == num_tuned


def test_full_plan_tunes_everything():
    plan = full_plan(5)
    assert plan.kept == plan.tuned == (0, 1, 2, 3, 4)
    assert plan.layout == tuple((index, True) for index in range(5))


def test_plans_of_random_clusters_keep_one_block_of_each():
    random_numbers = random.Random(1)
    for _ in range(300):
        num_blocks = random_numbers.randint(4, 40)
        cuts = sorted(random_numbers.sample(range(1, num_blocks), random_numbers.randint(3, num_blocks - 1)))
        clusters = [list(range(a, b)) for a, b in pairwise((0, *cuts, num_blocks))]
        plan = crash_plan(clusters)
        assert (plan.num_blocks, len(plan.tuned), plan.share) == (num_blocks, 4, "all")
        for cluster, block in zip(clusters, plan.kept, strict=True):
            below, above = block - cluster[0], cluster[-1] - block
            assert below - above in (0, 1), "of an even run the upper one of the two in the middle"
        ends = crash_plan(clusters, keep_ends=True, share=None)
        assert ends.kept == (0, *plan.kept[1:-1], num_blocks - 1)
        assert (ends.tuned[0], ends.tuned[-1], ends.share) == (0, num_blocks - 1, None)


def test_fixed_blocks_may_come_in_any_order():
    assert fixed_plan(6, [5, 0, 3], [5, 0]) == fixed_plan(6, [0, 3, 5], [0, 5])


def test_with_one_side_only_that_side_stands_in():
    # Block 1 is tuned, and the only one below 4 and above 0: also frozen_only can take nothing but its frozen copy.
    assert make_layout(4, [1, 2], [1], "frozen_only") == ((1, False), (1, True), (2, False), (2, False))
    assert make_layout(3, [1], [1], "all") == ((1, False), (1, True), (1, False))


def test_keep_ends_represents_the_outer_clusters_by_the_outer_blocks():
    clusters = [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert crash_plan(clusters, num_tuned=2).kept == (1, 4, 6)
    assert crash_plan(clusters, num_tuned=2, keep_ends=True).kept == (0, 4, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform_plan(12, 13), "num_kept = 13: keep between 1 and 12"),
        (lambda: uniform_plan(12, 0), "num_kept = 0"),
        (lambda: uniform_plan(12, 4, 5), "num_tuned = 5: tune between 1 and 4"),
        (lambda: uniform_plan(12, 4, 0), "num_tuned = 0"),
        (lambda: crash_plan([[0], [1]], num_tuned=1), "explicit list"),
        (lambda: crash_plan([[0, 2], [1]], num_tuned=2), "cut blocks 0..N-1 into runs"),
        (lambda: crash_plan([[0, 1], []], num_tuned=2), "at least one block"),
        (lambda: crash_plan([], num_tuned=2), "at least one block"),
        (lambda: crash_plan([[0, 1]], num_tuned=1, keep_ends=True), "at least two clusters"),
        (lambda: fixed_plan(4, [0, 1], [2]), "tuned block 2 is not kept"),
        (lambda: fixed_plan(4, [0, 4], [0]), "leaves 0..3"),
        (lambda: fixed_plan(4, [-1, 0], [0]), "leaves 0..3"),
        (lambda: fixed_plan(4, [0, 0], [0]), "without repetition"),
        (lambda: fixed_plan(4, [], []), "kept is empty"),
        (lambda: fixed_plan(4, [0, 1], []), "tuned is empty"),
        (lambda: fixed_plan(4, [0, 1], [0], "some"), "share = 'some'; choose from None, all, frozen_only"),
    ],
)
def test_refusals_say_what_is_wrong(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": "0,1"}, "kept must be a list"),
        ({"kept": [0, True]}, "kept must be a list"),
        ({"tuned": [0.0]}, "tuned must be a list"),
        ({"kept": [2, 0]}, "must be ascending"),
        ({"tuned": [1]}, "tuned block 1 is not kept"),
        ({"num_blocks": "4"}, "not a whole number"),
        ({"num_blocks": 2}, "leaves 0..1"),
        ({"share": "some"}, "choose from None, all, frozen_only"),
        ({"share": ["all"]}, "choose from None, all, frozen_only"),
        ({"share": "all"}, "does not follow"),
        ({"layout": {}}, "list of \\[source, is_tuned\\]"),
        ({"layout": [[0, 1]]}, "list of \\[source, is_tuned\\]"),
        ({"layout": [[1, False], [1, True]]}, "does not follow"),
        ({"extra": 1}, "expected the fields"),
    ],
)
def test_a_foreign_plan_is_checked_field_by_field(change, message):
    values = json.loads(fixed_plan(4, [0, 2], [0]).to_json()) | change
    with pytest.raises(InputError, match=message):
        Plan.from_json(json.dumps(values))


@pytest.mark.parametrize("field", ["num_blocks", "kept", "tuned", "share", "layout"])
def test_a_plan_with_a_field_missing(field):
    values = json.loads(fixed_plan(4, [0, 2], [0]).to_json())
    del values[field]
    with pytest.raises(InputError, match=rf"expected the fields .*{field}.*found") as caught:
        Plan.from_json(json.dumps(values))
    assert field not in str(caught.value).partition("found")[2]


def test_a_plan_that_is_no_json():
    with pytest.raises(InputError, match="not valid JSON"):
        Plan.from_json("{")
    with pytest.raises(InputError, match="found list"):
        Plan.from_json("[]")
