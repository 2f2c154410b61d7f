"""Frontier: the numbers of the table, its order, and everything that is written."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.evaluation.searching import loss_differences, order, proxy_agreement
from tasks.engine.runtime import Runtime
from tasks.search_report import frontier
from tasks.store.artifacts import Ref, Store

FACTS = {"task": "people", "model": "small", "max_disclosed": 0.5, "by": "measured", "tuning_seeds": [0, 1]}


def ref(stage: str, number: float, **summary: Any) -> Ref:
    return Ref(stage=stage, key=f"{stage}{number}", digest=f"{stage}{number}", summary=summary)


def trial(name: str, emulator: list[float], plugged: list[float], num_bytes: int, kl: float) -> dict[str, Any]:
    """A plan that was measured with two seeds."""
    return {
        "name": name,
        "strategy": name.split()[0],
        "num_kept": 4,
        "num_tuned": 2,
        "disclosed": 0.4,
        "reason": None,
        "snippet": f'strategy = ["{name}"]\n\n[plan]\nnum_kept = 4\n',
        "plan": ref("cluster", kl),
        "proxies": ref("proxies", kl, gradient_cosine=1 - kl, kl=kl, state_error=0.5),
        "emulator": ref("emulate", kl, num_bytes=num_bytes),
        "emulator_tuned": [ref("validate", loss, loss=loss) for loss in emulator],
        "plugged_in": [ref("validate", loss + 0.01, loss=loss) for loss in plugged],
    }


@pytest.fixture
def trials() -> list[dict[str, Any]]:
    """Three that were measured, one that was not, one that was left out."""
    unmeasured = {**trial("crash 3/2", [], [], 0, 0.9), "emulator": None}
    left_out = {"name": "uniform 8/2", "strategy": "uniform", "disclosed": 0.8, "reason": "discloses 80.0%"}
    return [
        trial("uniform 4/2", [2.0, 2.2], [1.5, 1.7], 1000, 0.3),
        left_out,
        trial("crash 4/2", [2.5, 2.5], [1.0, 1.2], 2000, 0.2),
        unmeasured,
        trial("crash 5/2", [1.9, 1.9], [1.8, 1.9], 3000, 0.4),
    ]


def test_differences_are_paired_by_seed_and_turned_so_that_more_is_better():
    found = loss_differences(3.0, [2.0, 2.4], [1.0, 1.2])
    assert found["gain"] == pytest.approx(1.9)
    assert found["leak"] == pytest.approx(0.8)
    assert found["privacy_gap"] == pytest.approx(1.1)
    assert found["privacy_gap_stderr"] == pytest.approx(0.1)
    assert found["emulator_loss"] - found["plug_in_loss"] == pytest.approx(found["privacy_gap"])
    assert set(loss_differences(3.0, [], []).values()) == {None}


def test_the_order_and_the_frontier():
    base = {"reason": None, "plug_in_loss": 1.0, "gain": 1.0, "privacy_gap": 0.5, "num_bytes": 10}
    rows = [
        {**base, "name": "left out", "reason": "why", "gain": None},
        {**base, "name": "larger", "num_bytes": 12},
        {**base, "name": "first"},
        {**base, "name": "not measured", "gain": None},
        {**base, "name": "other gap", "plug_in_loss": 2.0, "gain": 0.0, "privacy_gap": 0.6, "num_bytes": 11},
    ]
    found = order(rows)
    assert [row["name"] for row in found] == ["first", "larger", "other gap", "not measured", "left out"]
    assert [row["number"] for row in found] == [1, 2, 3, 4, 5]
    assert [row["on_frontier"] for row in found] == [True, False, True, None, None]


def test_a_proxy_that_foretells_the_order_is_one_whatever_its_direction():
    rows = [{"gain": gain, "gradient_cosine": gain, "kl": -gain, "state_error": gain} for gain in (1.0, 2.0, 3.0, 4.0)]
    found = proxy_agreement([*rows, {"gain": None}])
    assert found["gradient_cosine"].spearman == pytest.approx(1)
    assert found["kl"].kendall == pytest.approx(1)
    assert found["state_error"].kendall == pytest.approx(-1)
    assert found["kl"].num_plans == 4


def test_everything_is_written(tmp_path: Path, trials: list[dict[str, Any]]) -> None:
    made = frontier.run(Runtime(store=str(tmp_path)), facts=FACTS, full=ref("validate", 3.0, loss=3.0), trials=trials)
    folder = Store(tmp_path).open(made)
    content = json.loads((folder / "search.json").read_text())
    assert made.summary["best"] == content["best"] == "crash 4/2"
    assert made.summary["num_measured"] == 3
    assert made.summary["gain"] == pytest.approx(1.9)
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["crash 4/2", "uniform 4/2", "crash 5/2", "crash 3/2", "uniform 8/2"]
    assert float(rows[1]["privacy_gap"]) == pytest.approx(0.5)
    text = (folder / "table.md").read_text()
    assert text.startswith("people with small: 3 of 5 plans measured, at most 50% of the parameters disclosed")
    assert "- uniform 8/2: discloses 80.0%" in text
    assert "standard error over 2 tuning seeds" in text
    assert text.count("not measured") == 1
    assert 'strategy = ["crash 4/2"]\n\n[plan]' in text
    assert (folder / "best.toml").read_text() == trials[2]["snippet"]
    # All the same for every plan: nothing can be ranked by it.
    assert content["proxies"]["state_error"] is None
    assert "the same for all" in text
    assert content["proxies"]["kl"]["spearman"] == pytest.approx(1)
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_plan_is_a_search_too(tmp_path: Path, trials: list[dict[str, Any]]) -> None:
    runtime, full = Runtime(store=str(tmp_path)), ref("validate", 3.0, loss=3.0)
    facts = {**FACTS, "tuning_seeds": [0]}
    for each in ("emulator_tuned", "plugged_in"):
        trials[0][each] = trials[0][each][:1]
    made = frontier.run(runtime, facts=facts, full=full, trials=trials[:1])
    text = (Store(tmp_path).open(made) / "table.md").read_text()
    assert "With 1 measured plan(s) nothing can be said" in text
    assert "±" not in text
