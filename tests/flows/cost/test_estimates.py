"""Estimates of searches and studies, and the assumptions that each names."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import parser
from flows.cost.estimates import estimate_search, estimate_study
from flows.cost.priced import Cost
from flows.settings.grid import make_cells
from flows.settings.kinds import SearchSettings
from flows.settings.reading import read_settings, read_sweep
from tasks.core.errors import InputError
from tests.flows.cost.test_cost_cells import cells_of, models

__all__ = ["models"]


@pytest.fixture(scope="module")
def model(models: dict[str, str]) -> str:
    """A folder with nothing but a config, of eight blocks."""
    return models["gpt2"]


def search_file(model: str, folder: Path, search: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(
        f'[model]\nname = "{model}"\n[task]\nname = "piqa"\n[plan]\nnum_kept = 4\nnum_tuned = 2\n[search]\n{search}'
    )
    return path


def test_a_search_is_priced_by_its_dearest_plans(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = search_file(model, tmp_path, "num_kept = [4, 6, 7, 9]\nmax_disclosed = 0.85\n")
    settings = read_settings(path, kind=SearchSettings)
    every = estimate_search(settings).stages.values()
    found = Counter(cost.stage for cost in every)
    # Seven of eight blocks disclose too much, nine are impossible.
    assert (found["cluster"], found["proxies"], found["tune"], found["plug_in"]) == (2, 2, 2, 2)
    assert found["validate"] == 1 + 2 * 2
    assert (found["evaluate"], found["full_tune"], found["frontier"]) == (0, 0, 1)
    options = parser().parse_args(["plan-cost", str(path), "--set", "search.by=estimated"])
    options.run(options)
    assert "At most 2 of 2 plans are tuned; the dearest are counted." in capsys.readouterr().out
    options = parser().parse_args(
        ["plan-cost", str(path), "--json", "--set", "search.by=estimated", "--set", "search.num_measured=1"]
    )
    options.run(options)
    facts = json.loads(capsys.readouterr().out)
    (note,) = facts["notes"]
    assert note.startswith("At most 1 of 2 plans are tuned; the dearest are counted.")
    assert "2 more are impossible or disclose too much" in note
    rows = {row["stage"]: row for row in facts["stages"]}
    assert (rows["proxies"]["count"], rows["tune"]["count"], rows["validate"]["count"]) == (2, 1, 3)
    assert rows["tune"]["flops"] == max(cost.flops for cost in every if cost.stage == "tune")


def test_a_search_that_is_refused_is_not_priced(model: str, tmp_path: Path) -> None:
    path = search_file(model, tmp_path, "num_kept = [4, 6]\nmax_disclosed = 0.1\n")
    options = parser().parse_args(["plan-cost", str(path)])
    with pytest.raises(InputError, match=r"no plan of the search discloses so little"):
        options.run(options)
    # The same file as a run.
    options = parser().parse_args(["plan-cost", str(path), "--set", "search="])
    assert options.run(options) == 0
    assert len(make_cells(*read_sweep(path, ["search="]))) == 1


def study_cost(model: str, stage: str, **study: Any) -> Cost:
    ((_, cell),) = cells_of(model, {}, study=study)
    (cost,) = [cost for cost in estimate_study([("one", cell)]).stages.values() if cost.stage == stage]
    return cost


def test_what_a_setting_of_a_study_changes(model: str) -> None:
    few, many = (study_cost(model, "lens", parts=["lens"], lens_steps=steps) for steps in (100, 200))
    assert few.flops < many.flops < 2 * few.flops
    assert few.disk == many.disk == pytest.approx(4 * 7 * (64**2 + 64), rel=0.05)
    alone, pairs = (study_cost(model, "importance", parts=["importance"], pairs=pairs) for pairs in (False, True))
    # One pass, N passes from a block on, and N tunings undone; then N times as many passes more.
    assert 3 < pairs.flops / alone.flops < 8
    points = {"parts": ["landscape"], "resolution_plane": 20}
    two, three = (
        study_cost(model, "landscape", points=chosen, **points)
        for chosen in (["initial", "full"], ["initial", "full", "uniform"])
    )
    # Three lines of 25 places and 20 x 20 points, against one line.
    assert three.flops == pytest.approx(two.flops * (3 * 25 + 400) / 25, rel=0.01)


def test_a_study_says_what_is_assumed(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = search_file(model, tmp_path, 'num_kept = [4]\n[study]\nother = {old = "plug_in/abc"}\n')
    for parts, words in ({"weights": "", "landscape": "which blocks a tuning of study.other changed"}).items():
        options = parser().parse_args(["plan-cost", "--study", str(path), "--set", f'study.parts="{parts}"'])
        options.run(options)
        printed = capsys.readouterr().out
        assert parts in printed
        assert words in printed
        assert ("approximate" in printed) == bool(words)
        assert "At most" not in printed, "--study prices the study, not the search"
