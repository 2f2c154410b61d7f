"""Whole runs on other models, killed and run again, and changed in one place: what is computed, and what comes out."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_flow_faults import checkpoints, kill_and_rerun, undisturbed
from tests.flows.commands import artifacts, crash, small_settings, stages
from tests.flows.test_real_inputs import run, values

pytestmark = pytest.mark.bench
Row = Callable[[str, str, str], None]
__all__ = ["undisturbed"]


def test_a_real_model(real_data: Path, tmp_path: Path, row: Row) -> None:
    began = time.monotonic()
    report = run(tmp_path, real_data / "models" / "stories260K", "arc_easy", real_data / "tasks" / "arc_easy")
    plugged = values(report)["plug_in"]
    row(
        "stories260K, arc_easy, 12 rows a split", f"{time.monotonic() - began:.0f} s, plug-in {plugged:.2f}", "a report"
    )


def test_what_a_change_computes_again(tmp_path: Path, row: Row) -> None:
    store = tmp_path / "home" / "store"
    assert crash("run", str(small_settings(tmp_path)), "--set", "strategy=uniform").returncode == 0
    one = artifacts(store)
    assert crash("run", str(tmp_path / "settings.toml")).returncode == 0
    two = artifacts(store)
    assert crash("run", str(tmp_path / "settings.toml"), "--set", "tune.learning_rate=1e-3").returncode == 0
    second, rate = stages(two.keys() - one.keys()), stages(artifacts(store).keys() - two.keys())
    row("computed for a second strategy", ", ".join(sorted(second)), "no capture, 3 evaluations")
    row("computed for another learning rate", ", ".join(sorted(rate)), "tune, plug_in, evaluate, report")
    assert "capture" not in second
    assert second["evaluate"] == 3
    assert set(rate) == {"tune", "plug_in", "evaluate", "report"}


def test_killed_while_tuning(tmp_path: Path, undisturbed: dict[str, str], row: Row) -> None:
    kill_and_rerun(checkpoints, small_settings(tmp_path), undisturbed)
    row("kill -9 while tuning, then the same command", "digests equal", "to an undisturbed run's")
