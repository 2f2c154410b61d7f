"""The table of strategies, and the laws that hold for every one of them."""

import random
import typing
from itertools import pairwise
from typing import Any

import pytest

from flows.settings.plan import Strategy as Names
from tasks.core import plan as plans
from tasks.core.errors import InputError
from tasks.core.plan.layout import REPEATING, SHARES, Plan, crash_plan, uniform_plan
from tasks.core.plan.placement import PLACEMENTS, ends, spread
from tasks.core.plan.registry import STRATEGIES, check_plan_possible, make_plan

CHOSEN = [name for name in STRATEGIES if name != "fixed"]
# Those of Offsite-Tuning's code tune the ends as it does; all others follow CRaSh.
AT_THE_ENDS = {"uniform", "uniform_deviation", "normal", "left_normal", "right_normal", "inverse_normal", "random"}


def evidence_for(name: str, num_blocks: int, num_kept: int, seed: int, protected: tuple[int, ...] = ()) -> Any:
    """Random evidence of the kind that a strategy needs."""
    numbers = random.Random(seed)
    match STRATEGIES[name].needs:
        case "num_blocks":
            return num_blocks
        case "block_influence" | "block_scores":
            return [numbers.random() for _ in range(num_blocks)]
        case "angular_distance":
            return [[numbers.random() for _ in range(num_blocks + 1)] for _ in range(num_blocks + 1)]
        case "clusters":
            cuts = [0, *sorted(numbers.sample(range(1, num_blocks), num_kept - 1)), num_blocks]
            return [list(range(a, b)) for a, b in pairwise(cuts)]
        case "single_clusters":
            labels = [*range(num_kept), *(numbers.randrange(num_kept) for _ in range(num_blocks - num_kept))]
            numbers.shuffle(labels)
            groups = [[block for block in range(num_blocks) if labels[block] == label] for label in range(num_kept)]
            return sorted(groups)
        case "stand_in_errors":
            return [[numbers.random() for _ in range(num_blocks)] for _ in range(num_blocks)]
    stays = {0, *protected}
    order = [block for block in range(num_blocks) if block not in stays]
    numbers.shuffle(order)
    return order[: num_blocks - num_kept]


def random_plan_of(name: str, seed: int, placement: str | None = None) -> tuple[Plan, int, int]:
    """A plan of a random budget that the strategy can meet, with the numbers of kept and tuned blocks asked for."""
    numbers = random.Random(seed)
    num_blocks = numbers.randint(6, 40)
    num_kept = numbers.randint(5, num_blocks)
    num_tuned = numbers.randint(2, 4)
    placed = placement or STRATEGIES[name].placement
    protected = ends(range(num_blocks), num_tuned) if placed == "ends" else ()
    evidence = evidence_for(name, num_blocks, num_kept, seed, protected)
    options = {"num_blocks": num_blocks, "num_kept": num_kept, "num_tuned": num_tuned, "seed": seed}
    share = numbers.choice(SHARES)
    return make_plan(name, evidence, {**options, "placement": placement, "share": share}), num_kept, num_tuned


def test_the_settings_know_the_same_strategies() -> None:
    assert typing.get_args(Names) == tuple(STRATEGIES)


def test_every_strategy_is_named_described_and_found_beside_the_plans() -> None:
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert strategy.line
        assert "\n" not in strategy.line
        assert strategy.source
        assert getattr(plans, f"{name}_plan") is strategy.plan
        assert strategy.plan.__doc__
    with pytest.raises(AttributeError, match="no attribute 'unheard_of_plan'"):
        _ = plans.unheard_of_plan


def test_what_each_does_by_default() -> None:
    assert {name for name, strategy in STRATEGIES.items() if strategy.placement == "ends"} == AT_THE_ENDS
    shares = {name: strategy.share for name, strategy in STRATEGIES.items() if strategy.share}
    assert shares == {"spans": "linear", "scaleot": "harmonizers"}
    assert {name for name, strategy in STRATEGIES.items() if strategy.is_sampled} == {
        "normal",
        "left_normal",
        "right_normal",
        "inverse_normal",
        "random",
    }


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("placement", [None, "ends", "centres"])
def test_laws_of_every_plan(name: str, placement: str | None) -> None:
    for seed in range(60):
        plan, num_kept, num_tuned = random_plan_of(name, seed, placement)
        assert len(plan.kept) == num_kept
        assert len(plan.tuned) == num_tuned
        assert set(plan.tuned) <= set(plan.kept)
        assert list(plan.kept) == sorted(set(plan.kept))
        assert len(plan.layout) == (plan.num_blocks if plan.share in REPEATING else num_kept)
        placed = placement or STRATEGIES[name].placement
        if placed == "centres":
            assert plan.tuned == spread(plan.kept, num_tuned)
        else:
            among = plan.kept if STRATEGIES[name].clusters else range(plan.num_blocks)
            assert plan.tuned == ends(among, num_tuned)


@pytest.mark.parametrize("name", CHOSEN)
def test_keeping_all_blocks_keeps_all(name: str) -> None:
    for num_blocks in (4, 7, 12):
        evidence = evidence_for(name, num_blocks, num_blocks, 0)
        options = {"num_blocks": num_blocks, "num_kept": num_blocks, "num_tuned": 3, "share": "all"}
        plan = make_plan(name, evidence, options)
        assert plan.kept == tuple(range(num_blocks))
        assert [source for source, _ in plan.layout] == list(range(num_blocks))


@pytest.mark.parametrize("name", [name for name in CHOSEN if not STRATEGIES[name].clusters])
def test_explicitly_tuned_blocks_are_kept_whatever_the_strategy_thinks_of_them(name: str) -> None:
    tuned = (1, 2, 17)
    for seed in range(30):
        evidence = evidence_for(name, 20, 9, seed, tuned)
        options = {"num_blocks": 20, "num_kept": 9, "placement": "explicit", "tuned": tuned[::-1], "seed": seed}
        plan = make_plan(name, evidence, options)
        assert plan.tuned == tuned
        assert len(plan.kept) == 9


@pytest.mark.parametrize("name", ["crash", "single"])
def test_explicitly_tuned_blocks_must_be_centres(name: str) -> None:
    clusters = [[0, 1, 2], [3], [4, 5]]
    options = {"placement": "explicit", "tuned": (5, 3), "share": None}
    assert make_plan(name, clusters, options).tuned == (3, 5)
    with pytest.raises(InputError, match=r"tuned block 4 is not the centre of a cluster; the centres are \[1, 3, 5\]"):
        make_plan(name, clusters, options | {"tuned": (3, 4)})


# Which blocks are centres is not known before they are clustered: that explicit ones are none is refused later.
@pytest.mark.parametrize(
    ("name", "placement"),
    [
        (name, placement)
        for name in STRATEGIES
        for placement in PLACEMENTS
        if not (STRATEGIES[name].clusters and placement == "explicit")
    ],
)
def test_a_rehearsal_refuses_exactly_what_the_plan_refuses(name: str, placement: str) -> None:
    """Over all small budgets."""
    tuned = (1, 4)
    refused = 0
    for num_kept in range(8):
        for num_tuned in range(5):
            options = {"num_blocks": 6, "num_kept": num_kept, "num_tuned": num_tuned, "share": None, "deviation": 0.3}
            options |= {"placement": placement, "tuned": tuned, "kept": tuple(range(num_kept))}
            rehearsed = outcome(lambda options=options: check_plan_possible(name, 6, options))
            real = outcome(lambda options=options: made(name, options, placement, tuned))
            assert (rehearsed is None) == (real is None), (num_kept, num_tuned, rehearsed, real)
            refused += rehearsed is not None
    assert refused


def made(name: str, options: dict[str, Any], placement: str, tuned: tuple[int, ...]) -> Plan:
    """A plan from random evidence."""
    num_kept, num_tuned = options["num_kept"], options["num_tuned"]
    if STRATEGIES[name].clusters and not 1 <= num_kept <= 6:
        raise InputError("no such clusters")
    protected = {"ends": ends(range(6), num_tuned) if num_tuned else (), "explicit": tuned, "centres": ()}[placement]
    if STRATEGIES[name].needs == "dropped" and not len({0, *protected}) <= num_kept <= 6:
        raise InputError("no such order")
    return make_plan(name, evidence_for(name, 6, num_kept, 0, protected), options)


def outcome(make: Any) -> str | None:
    """The refusal, or None."""
    try:
        make()
    except InputError as error:
        return str(error)
    return None


def test_an_unknown_strategy_or_placement_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"strategy = 'crsh'; choose from crash, uniform, .*, fixed"):
        make_plan("crsh", 6, {})
    for make in (lambda: uniform_plan(6, 4, 2, "middle"), lambda: crash_plan([[0], [1]], 2, placement="middle")):
        with pytest.raises(InputError, match="placement = 'middle'; choose from ends, centres, explicit"):
            make()


@pytest.mark.parametrize(
    ("tuned", "message"),
    [((), "tuned is empty"), ((1, 1), "without repetition"), ((6,), r"leaves 0\.\.5"), ((0, 1, 2), "between 1 and 2")],
)
def test_an_explicit_placement_that_cannot_be(tuned: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        uniform_plan(6, 2, placement="explicit", tuned=tuned)
