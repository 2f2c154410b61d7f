"""Which plans a search tries: every combination once, with what it discloses, and why others are left out."""

import tomllib

import pytest

from flows.searches.candidates import make_candidates, snippet
from flows.settings.emulator import Compress
from flows.settings.kinds import SearchSettings
from tasks.core.costs.sizes import Sizes
from tasks.core.errors import InputError

SIZES = Sizes((10,) * 8, 20)
BASE = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 4, "num_tuned": 2}}
BASE |= {"distill": {"data": "d"}}


def settings(search: dict, plan: dict | None = None) -> SearchSettings:
    return SearchSettings.model_validate({**BASE, "plan": {**BASE["plan"], **(plan or {})}, "search": search})


def test_every_combination_once_however_many_ways_there_are_to_say_it():
    lists = {"num_kept": [2, 4], "num_tuned": [2, 3], "share": ["none", "all"], "strategy": ["crash", "fixed"]}
    found = make_candidates(settings({**lists, "max_disclosed": 1}, {"kept": [0, 3, 5], "tuned": [0, 5]}), SIZES)
    names = [candidate.name for candidate in found]
    assert len(set(names)) == len(names)
    # The fixed plan looks at no number of blocks.
    assert [name for name in names if name.startswith("fixed")] == ["fixed 3/2 none", "fixed 3/2 all"]
    tried = [candidate.name for candidate in found if not candidate.reason]
    assert "crash 4/3 all" in tried
    assert "crash 2/2 none" in tried
    impossible = {candidate.name: candidate.reason for candidate in found if candidate.settings is None}
    assert impossible.keys() == {"crash 2/3 none", "crash 2/3 all"}
    assert all("tune at most as many as are kept" in reason for reason in impossible.values())


def test_empty_lists_are_the_plan_itself():
    (only,) = make_candidates(settings({}), SIZES)
    assert only.settings.plan == settings({}).plan
    assert only.disclosed == pytest.approx(0.6)
    assert only.values == {"strategy": "crash", "num_kept": 4, "num_tuned": 2, "share": "none"}


def test_what_discloses_too_much_is_left_out_and_says_so():
    found = make_candidates(settings({"num_kept": [3, 4, 5], "max_disclosed": 0.6}), SIZES)
    assert [candidate.disclosed for candidate in found] == pytest.approx([0.5, 0.6, 0.7])
    assert [candidate.reason for candidate in found] == [
        None,
        None,
        "discloses 70.0% of the parameters, more than search.max_disclosed = 60.0%",
    ]


def test_explicit_blocks_are_counted_as_they_are():
    sizes = Sizes((50, 10, 10, 10), 20)
    chosen = {"strategy": ["fixed"], "max_disclosed": 0.5}
    assert make_candidates(settings(chosen, {"kept": [1, 3], "tuned": [1]}), sizes)[0].disclosed == 0.4
    with pytest.raises(InputError, match=r"fixed 2/1 none, discloses 80\.0%"):
        make_candidates(settings(chosen, {"kept": [0, 3], "tuned": [0]}), sizes)


def test_a_limit_that_no_plan_meets_says_the_least_possible():
    with pytest.raises(InputError) as caught:
        make_candidates(settings({"num_kept": [4, 3], "max_disclosed": 0.3}), SIZES)
    assert "smallest, crash 3/2 none, discloses 50.0% of m" in str(caught.value)
    assert "a single block with embeddings and head 30.0%" in str(caught.value)
    assert "search.num_kept" in str(caught.value)


def test_a_search_in_which_nothing_can_be_says_why():
    with pytest.raises(InputError, match=r"the first, crash 9/2 auto: plan\.num_kept = 9, but m has 8 blocks"):
        make_candidates(settings({"num_kept": [9, 10], "max_disclosed": 1}), SIZES)


@pytest.mark.parametrize(
    "search", [{"max_disclosed": 0}, {"max_disclosed": 1.01}, {"num_measured": 0}, {"strategy": ["crsh"]}]
)
def test_bad_values_are_refused(search):
    with pytest.raises(ValueError, match="search"):
        settings(search)


def test_the_snippet_is_the_plan_and_valid_settings():
    plan = {"linkage": "average", "keep_ends": True, "kept": [0, 2], "tuned": [2], "num_tuned": 1}
    given = settings({}, plan)
    read = tomllib.loads(snippet(given))
    assert SearchSettings.model_validate({**BASE, **read}).plan == given.plan
    assert SearchSettings.model_validate({**BASE, **read}).strategy == given.strategy


def test_each_strategy_shares_in_its_own_way_and_named_blocks_are_counted():
    shared = settings({"strategy": ["crash", "uniform"]}, {"share": {"crash": "frozen_only"}})
    assert [candidate.name for candidate in make_candidates(shared, SIZES)] == [
        "crash 4/2 frozen_only",
        "uniform 4/2 none",
    ]
    # What `auto` stands for and the same said in words are one plan.
    said_twice = settings({"strategy": ["uniform"], "share": ["auto", "none"]})
    (only,) = make_candidates(said_twice, SIZES)
    assert only.name == "uniform 4/2 none"
    explicit = settings({"strategy": ["reverse"]}, {"placement": "explicit", "tuned": [0, 2, 3]})
    assert [candidate.name for candidate in make_candidates(explicit, SIZES)] == ["reverse 4/3 none"]


def test_what_harmonizers_disclose_the_plan_does_not_say():
    for plan, search in (({"share": "harmonizers"}, {}), ({}, {"share": ["all", "harmonizers"]})):
        with pytest.raises(InputError, match="strategy crash with harmonizers in a search: what such an emulator"):
            make_candidates(settings(search, plan), SIZES)
    with pytest.raises(InputError, match="strategy scaleot with harmonizers in a search"):
        make_candidates(settings({"strategy": ["crash", "scaleot"]}), SIZES)


def test_of_low_rank_emulators_the_plan_does_not_say_what_they_disclose():
    low_rank = settings({}).model_copy(update={"compress": Compress(method="low_rank", rank=2)})
    with pytest.raises(InputError, match="search without it, then run the best plan with it"):
        make_candidates(low_rank, SIZES)
