"""Strategies through settings and command: what is passed, what is refused before anything runs, one run of several."""

import json
from pathlib import Path
from typing import Any

import pytest

from docs.generate.strategy_picture import plans
from flows.running.arguments import Arguments, plan_options
from flows.running.inputs import check_budget
from flows.running.published_as import published_as
from flows.settings.grid import make_cells, split_axes
from flows.settings.reading import read_settings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.core.plan.placement import ends
from tasks.core.plan.registry import STRATEGIES
from tests.flows.commands import artifacts, crash, small_settings, stages

pytestmark = pytest.mark.usefixtures("one_prefect")

OFT = {"uniform": "uniform", "uniform_spread": "uniform_spread"}


def settings(strategy: Any = "crash", **plan: Any) -> Settings:
    named = {"model": {"name": "m"}, "task": {"name": "t"}, "strategy": strategy, "distill": {"data": "d"}}
    return Settings.model_validate({**named, "plan": {"num_kept": 6, **plan}})


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_what_a_strategy_uses_is_passed(name: str) -> None:
    chosen = settings(name, kept=(0, 2, 3), tuned=(0, 3))
    expected = {
        "crash": {"num_kept": 6, "num_tuned": 4, "linkage": "boundary", "share": None, "keep_ends": False},
        "single": {"num_kept": 6, "num_tuned": 4, "linkage": "average", "share": None},
        "spans": {"num_kept": 6, "num_tuned": 4, "share": "linear"},
        "scaleot": {"num_kept": 6, "num_tuned": 4, "share": "harmonizers"},
        "fixed": {"kept": (0, 2, 3), "tuned": (0, 3), "share": None},
        "uniform_deviation": {"num_kept": 6, "num_tuned": 4, "deviation": 0.0, "share": None},
    }
    otherwise = {"num_kept": 6, "num_tuned": 4, "share": None} | ({"seed": 0} if STRATEGIES[name].is_sampled else {})
    assert plan_options(chosen, name) == expected.get(name, otherwise)


def test_placement_and_linkage_are_passed_where_they_say_something_else() -> None:
    assert "placement" not in plan_options(settings("random", placement="ends"), "random")
    assert plan_options(settings("random", placement="centres"), "random")["placement"] == "centres"
    explicit = plan_options(settings("crash", placement="explicit", tuned=(1, 3)), "crash")
    assert (explicit["placement"], explicit["tuned"]) == ("explicit", (1, 3))
    assert "num_tuned" not in explicit
    assert plan_options(settings("single", linkage="complete"), "single")["linkage"] == "complete"


def test_one_way_to_share_is_for_all_and_a_table_for_those_in_it() -> None:
    every = settings(["crash", "uniform"], share="frozen_only")
    assert [plan_options(every, name)["share"] for name in every.strategy] == ["frozen_only"] * 2
    table = settings(["crash", "uniform", "reverse"], share={"crash": "none", "reverse": "all"})
    assert [plan_options(table, name)["share"] for name in table.strategy] == [None, None, "all"]


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        ({}, {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash without sharing"}),
        (
            {"share": "none"},
            {"uniform": "uniform", "uniform_spread": "uniform_spread", "crash": "crash without sharing"},
        ),
        ({"share": "all"}, {"crash": "crash"}),
        ({"share": {"crash": "frozen_only", "uniform": "all"}}, {"uniform_spread": "uniform_spread"}),
        ({"linkage": "average"}, OFT),
        ({"placement": "ends"}, {}),
    ],
)
def test_published_rows_are_those_of_the_same_placement_and_sharing(plan: dict[str, Any], rows: dict[str, str]) -> None:
    assert published_as(settings(["uniform", "uniform_spread", "crash", "random"], **plan)) == {"full": "full", **rows}


def test_in_a_grid_a_list_of_ways_to_share_is_an_axis_and_a_table_is_none() -> None:
    base, axes = split_axes({"plan": {"num_kept": 4, "share": ["none", {"crash": "all"}]}})
    assert axes == {"plan.share": ["none", {"crash": "all"}]}
    assert base["plan"]["share"] == "none"
    assert split_axes({"plan": {"num_kept": 4, "share": {"crash": "all"}}})[1] == {}
    cells = make_cells(settings(["crash", "uniform"]), axes)
    shares = [[plan_options(cell, name)["share"] for name in cell.strategy] for _, cell in cells]
    assert shares == [[None, None], ["all", None]]


@pytest.mark.parametrize(
    ("plan", "protected"),
    [
        ({}, ()),
        ({"placement": "ends", "num_tuned": 3}, (0, 10, 11)),
        ({"placement": "explicit", "tuned": (4, 1)}, (1, 4)),
    ],
)
def test_tuned_blocks_that_are_known_ahead_are_not_dropped(plan: dict[str, Any], protected: tuple[int, ...]) -> None:
    arguments = Arguments(settings("iterative_drop", **plan), "float32")
    assert arguments.iterative_drop(12)["protected"] == protected


@pytest.mark.parametrize(
    ("strategy", "plan", "message"),
    [
        ("random", {"num_kept": 13}, "plan.num_kept = 13, but m has 12 blocks; keep at most 12"),
        ("crash", {"num_tuned": 1}, "strategy crash with plan.num_tuned = 1, .*placement explicit"),
        ("angular", {"placement": "explicit", "tuned": (2, 5, 8)}, "drops one run of 6 adjacent .*keep more blocks"),
        ("iterative_drop", {"placement": "explicit", "tuned": range(1, 7)}, r"never drops block 0 .* keep at least 7"),
        ("uniform_deviation", {"deviation": 0.9}, r"deviation = 0.9 leaves 1 of the 8 .* deviate by at most 0.75"),
        ("normal", {"placement": "explicit", "tuned": (3, 12)}, r"leaves 0\.\.11, the blocks of the model"),
        ("crash", {"placement": "explicit", "tuned": range(7)}, "num_tuned = 7: tune between 1 and 6"),
        ("scaleot", {"num_kept": 12}, "would train harmonizers, but all 12 blocks are kept"),
        ("fixed", {"kept": (0, 1), "tuned": (2,)}, r"fixed with plan.kept = \[0, 1\], .* tuned block 2 is not kept"),
    ],
)
def test_budgets_that_no_plan_meets_are_refused(strategy: str, plan: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_budget(settings(strategy, **plan), 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["plan.placement=middle"], "'auto', 'ends', 'centres' or 'explicit'"),
        (["plan.placement=explicit"], 'explicit" needs plan.tuned; or choose from auto, ends, centres'),
        (["plan.share=some"], "'some' is not a way to share; choose from auto, none, all, frozen_only"),
        (["plan.share.crsh=all"], "crsh is not a strategy; choose from crash, uniform"),
        (["plan.share.crash=some"], "'some' is not a way to share"),
        (["plan.deviation=1.0"], "less than 1"),
        (["strategy=normalish"], "'normal', 'left_normal'"),
    ],
)
def test_names_and_numbers_that_do_not_exist(tmp_path: Path, changes: list[str], message: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('model = {name = "m"}\ntask = {name = "t"}\nplan = {num_kept = 6}\n')
    with pytest.raises(InputError, match=message):
        read_settings(path, changes)


def test_an_explicit_placement_needs_no_number_of_tuned_blocks() -> None:
    assert settings(num_kept=2, placement="explicit", tuned=(1,)).plan.num_tuned_blocks == 1
    assert settings(num_kept=5, tuned=(1,)).plan.num_tuned_blocks == 4


def test_the_help_lists_every_strategy_with_its_line_and_source() -> None:
    shown = crash("run", "--help")
    assert shown.returncode == 0
    for strategy in STRATEGIES.values():
        assert f"{strategy.name:18} {strategy.line} [{strategy.source}]" in shown.stdout


def test_the_picture_shows_a_plan_of_every_strategy() -> None:
    drawn = plans()
    assert drawn.keys() == STRATEGIES.keys()
    for name, plan in drawn.items():
        assert (plan.num_blocks, len(plan.kept), len(plan.tuned)) == (24, 12, 4), name
        if STRATEGIES[name].placement == "ends":
            assert plan.tuned == ends(range(24), 4)
    assert len({plan.kept for plan in drawn.values()}) >= 12, "hardly any two alike, or the picture says little"


def test_strategies_of_every_kind_run_side_by_side(tmp_path: Path) -> None:
    """Drawn, from influence, from blocks alone, from blocks dropped and from stand-ins: the common is computed once."""
    path = small_settings(tmp_path)
    names = ["random", "block_influence", "single", "iterative_drop", "spans"]
    changes = [f"strategy={json.dumps(names)}", "full_tune.enabled=false", "tune.num_steps=2", "task.num_test=8"]
    shares = ", ".join(f'{name} = "{"linear" if name == "spans" else "all"}"' for name in names)
    changes += ["plan.placement=ends", "plan.num_tuned=2", f"plan.share={{{shares}}}"]
    done = crash("run", str(path), *(part for change in changes for part in ("--set", change)), timeout=580)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"| {name} emulator" in done.stdout
    made = stages(set(artifacts(tmp_path / "home/store")))
    assert {"capture": 1, "single": 1, "similarity": 2, "iterative_drop": 1, "cluster": 5}.items() <= made.items()
    assert (made["stand_in_errors"], made["stand_ins"], made["emulate"]) == (1, 1, 5)
    written = [json.loads(file.read_text()) for file in (tmp_path / "home/store/artifacts/cluster").glob("*/plan.json")]
    plans = {(len(plan["kept"]), plan["share"], len(plan["layout"])) for plan in written}
    assert plans == {(6, "all", 12), (6, "linear", 6)}
    # Of single, the ends of its centres; of all others, those of the model.
    assert sum(plan["tuned"] == [0, 11] for plan in written) >= 4
