"""The demo as a new user runs it: times, orderings, and what a second run costs."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.commands import ROOT, artifacts, clean_environment, stages

pytestmark = [pytest.mark.bench]
Row = Callable[[str, str, str], None]
LOG_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d{3}) \|.*Flow run .*(Beginning flow run|Finished in state)")


@dataclass
class Run:
    """One `make demo`: wall time, time inside the flow, and what it printed."""

    seconds: float
    flow_seconds: float
    log: str


@dataclass
class Clone:
    """A fresh clone in which the demo was run twice."""

    folder: Path
    first: Run
    second: Run
    before_second: dict[str, str]

    @property
    def store(self) -> Path:
        return self.folder / ".crash" / "store"


def make_demo(folder: Path) -> Run:
    """Run it; its flow's time from the log."""
    began = time.monotonic()
    done = subprocess.run(["make", "demo"], cwd=folder, capture_output=True, text=True, env=clean_environment())
    seconds = time.monotonic() - began
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    begin, end = (60 * (60 * int(h) + int(m)) + int(s) + int(ms) / 1000 for h, m, s, ms, _ in LOG_TIME.findall(log))
    return Run(seconds, (end - begin) % 86_400, log)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Cloned, set up and run as the README says."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    first = make_demo(folder)
    before = artifacts(folder / ".crash" / "store")
    return Clone(folder, first, make_demo(folder), before)


def test_times_of_the_first_run(clone: Clone, row: Row) -> None:
    row("make demo in a fresh clone, with installation", f"{clone.first.seconds:.0f} s", "<= 360 s")
    row("  of which computing", f"{clone.first.flow_seconds:.0f} s", "<= 150 s")
    assert clone.first.seconds <= 360
    assert clone.first.flow_seconds <= 150
    assert "mlflow server" in clone.first.log
    assert "report.html" in clone.first.log


def test_expected_orderings(clone: Clone, row: Row) -> None:
    [report] = (clone.store / "artifacts" / "report").glob("*/report.json")
    rows = json.loads(report.read_text())["rows"]
    values = {(line["strategy"], line["setting"]): line["value"] for line in rows}
    errors = {(line["strategy"], line["setting"]): line["stderr"] for line in rows}
    floor, ceiling = values["full", "full_zero_shot"], values["full", "full_fine_tuned"]
    for name in ("uniform", "crash"):
        tuned, plugged = values[name, "emulator_fine_tuned"], values[name, "plug_in"]
        row(f"{name}: zero-shot < tuned emulator < plug-in", f"{floor:.3f} < {tuned:.3f} < {plugged:.3f}", "holds")
        assert floor < tuned < plugged
        assert plugged <= ceiling + errors["full", "full_fine_tuned"]
    crash, uniform = values["crash", "plug_in"], values["uniform", "plug_in"]
    row("plug-in of crash > of uniform", f"{crash:.3f} > {uniform:.3f}", "holds")
    assert crash > uniform


def test_the_second_run(clone: Clone, row: Row) -> None:
    finished = [line for line in clone.second.log.splitlines() if "Task run" in line and "Finished in" in line]
    cached = [line for line in finished if "Cached(" in line]
    row("make demo again", f"{clone.second.seconds:.1f} s", "<= 15 s")
    row("  stages found, not computed", f"{len(cached)} of {len(finished)}", "all")
    assert len(cached) == len(finished) == sum(stages(set(clone.before_second)).values()) - 1
    assert artifacts(clone.store) == clone.before_second
    assert clone.second.seconds <= 15


def test_cost_of_orchestration(clone: Clone, row: Row) -> None:
    """All that a fully cached run spends is orchestration: start, servers, keys, verification, tracking."""
    tasks = clone.second.log.count("Cached(")
    per_task = 1000 * clone.second.flow_seconds / tasks
    share = clone.second.seconds / 300
    row("orchestration of a task", f"{per_task:.0f} ms", "<= 100 ms")
    row("orchestration of a run, start to end, of five minutes", f"{share:.1%}", "<= 5%")
    assert per_task <= 100
    assert share <= 0.05
