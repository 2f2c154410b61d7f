"""Whole runs under clocks that are off, or that jump (F22): nothing is computed again, nothing wanted is removed."""

import json
from pathlib import Path

import pytest

from tests.faults.clocks import DAY, at, days_off, needs_faketime, shifted
from tests.faults.running import Running, tunes
from tests.flows.commands import artifacts, crash, small_settings

# Under libfaketime a run starts in twice its time.
# The Prefect server that all runs use has the right clock.
pytestmark = [
    pytest.mark.usefixtures("one_prefect"),
    pytest.mark.slow_faults,
    pytest.mark.timeout(900),
    needs_faketime,
]
QUICK = ("--set", "strategy=uniform", "--set", "full_tune.enabled=false", "--set", "tune.num_steps=800")
# Middle Europe's rule, without a data base of time zones.
ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run that has ended well under the right clock."""
    settings = small_settings(tmp_path_factory.mktemp("finished"))
    done = crash("run", str(settings), *QUICK)
    assert done.returncode == 0, done.stderr
    return settings


def places(store: Path) -> dict[str, int]:
    """Each artifact and the folder that it lies in, another one once it was computed again."""
    return {name: (store / "artifacts" / name).stat().st_ino for name in artifacts(store)}


def last_started(store: Path) -> float:
    """When the newest run says that it began, in seconds since 1970."""
    from datetime import datetime

    path = max(store.glob("runs/*.json"), key=lambda found: found.stat().st_mtime)
    return datetime.fromisoformat(json.loads(path.read_text())["started"]).timestamp()


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(lambda: shifted("+1d"), marks=pytest.mark.nightly),
        pytest.param(lambda: shifted("-1d"), marks=pytest.mark.nightly),
        lambda: at("2039-06-01 00:00:00"),
        # A few seconds before the hour that is skipped, and before the one that comes twice.
        pytest.param(lambda: at("2026-03-29 00:59:55", ZONE), marks=pytest.mark.nightly),
        lambda: at("2026-10-25 00:59:55", ZONE),
    ],
    ids=["a day ahead", "a day behind", "2039", "summer time begins", "summer time ends"],
)
def test_f22_a_rerun_under_another_clock_computes_nothing(finished, clock):
    store = finished.parent / "home/store"
    before = places(store)
    done = crash("run", str(finished), *QUICK, **clock())
    assert done.returncode == 0, done.stderr
    assert places(store) == before
    assert not list(store.glob("quarantine/*"))
    assert "is damaged" not in done.stderr
    assert days_off(last_started(store)) != 0, "the clock was off"


@pytest.mark.nightly
def test_f22_clocks_that_jump_while_a_run_computes(finished, tmp_path):
    settings, clock = small_settings(tmp_path), tmp_path / "clock"
    home = settings.parent / "home"
    clock.write_text("+0d")
    run = Running(str(settings), *QUICK, **shifted(clock))
    run.wait_until(lambda: tunes(home), "first step", seconds=400)
    for offset, ahead in (("+1d", 0.5), ("-1d", -0.5)):
        clock.write_text(offset)
        run.wait_until(lambda ahead=ahead: jumped(home, ahead), f"a step at {offset}", seconds=200)
    assert run.wait(300) == 0, run.output
    assert "Traceback" not in run.output
    assert artifacts(home / "store") == artifacts(finished.parent / "home/store")
    before = places(home / "store")
    again = crash("run", str(settings), *QUICK)
    assert again.returncode == 0, again.stderr
    assert places(home / "store") == before


def jumped(home: Path, days: float) -> bool:
    """Whether the newest step of the tuning was that many days after the first, or before it."""
    for path in home.glob("store/work/*/metrics.jsonl"):
        times = [json.loads(line)["time"] for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return bool(times) and (times[-1] - times[0]) / DAY / days >= 1
    return False


@pytest.mark.parametrize(
    ("of_the_run", "of_gc"),
    [
        (None, "+1d"),
        *(
            pytest.param(*offsets, marks=pytest.mark.nightly)
            for offsets in ((None, "-1d"), ("+1d", None), (None, "@2039-06-01 00:00:00"))
        ),
    ],
)
def test_f22_gc_under_another_clock_leaves_what_a_run_wants(finished, tmp_path, of_the_run, of_gc):
    settings = small_settings(tmp_path)
    home = settings.parent / "home"
    assert crash("run", str(settings), *QUICK, "--set", "tune.num_steps=4").returncode == 0
    first = places(home / "store")
    run = Running(str(settings), *QUICK, **(shifted(of_the_run) if of_the_run else {}))
    run.wait_until(lambda: tunes(home), "first step", seconds=400)
    used = places(home / "store").keys() & artifacts(finished.parent / "home/store").keys()
    assert {name.partition("/")[0] for name in used} >= {"capture", "emulate"}
    removed = crash("gc", "--home", str(home), "--days", "0", **(shifted(of_gc) if of_gc else {}))
    assert removed.returncode == 0, removed.stderr
    assert used <= places(home / "store").keys()
    run.wait_until(lambda: tunes(home), "tuning goes on")
    assert run.wait(300) == 0, run.output
    after = places(home / "store")
    assert {name: after[name] for name in used} == {name: first[name] for name in used}
    assert artifacts(home / "store").items() >= artifacts(finished.parent / "home/store").items()
