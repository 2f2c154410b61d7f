"""What a stage sees while it computes: metrics that survive kills, progress that is quiet, requests to stop."""

import importlib
import inspect
import json
import os
import sys
import time
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.core.harmonizers.settings import Harmonizing
from tasks.core.tuning.settings import TrainSettings
from tasks.engine.stage import Stage
from tasks.engine.work import Work, note_kill
from tasks.store.artifacts import Store
from tasks.store.keys import stage_key
from tasks.store.metrics import METRICS_FILE, read_metrics
from tests.store.stages import stage_modules


@pytest.fixture
def work(tmp_path: Path) -> Work:
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    return Work(tmp_path / "out", tmp_path / "scratch", Store(tmp_path / "store"), label="tune crash")


def values(path: Path) -> list[dict]:
    """Entries of a metrics file without their times."""
    return [{name: value for name, value in entry.items() if name != "time"} for entry in read_metrics(path)]


def test_metrics_are_written_at_once_with_step_and_time(work):
    before = time.time()
    work.metric(1, loss=0.5, learning_rate=1e-3)
    work.metric(accuracy=0.25)
    entries = [json.loads(line) for line in (work.scratch / METRICS_FILE).read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, None]
    assert (entries[0]["loss"], entries[0]["learning_rate"], entries[1]["accuracy"]) == (0.5, 1e-3, 0.25)
    assert all(before - 1 < entry["time"] < time.time() + 1 for entry in entries)


def test_of_a_step_done_twice_the_last_value_is_kept(work):
    for step in (1, 2, 3):
        work.metric(step, loss=10.0 + step)
    # Killed after step 3, resumed from a checkpoint of step 1.
    for step in (2, 3, 4):
        work.metric(step, loss=20.0 + step)
    work.keep_metrics()
    kept = values(work.out / METRICS_FILE)
    assert [(entry["step"], entry["loss"]) for entry in kept] == [(1, 11.0), (2, 22.0), (3, 23.0), (4, 24.0)]


def test_what_is_different_at_one_step_or_has_none_is_all_kept(work):
    work.metric(5, loss=1.0)
    work.metric(5, validation_loss=2.0)
    work.metric(accuracy=0.5)
    work.metric(accuracy=0.5)
    work.keep_metrics()
    kept = values(work.out / METRICS_FILE)
    assert kept == [
        {"step": 5, "loss": 1.0},
        {"step": 5, "validation_loss": 2.0},
        {"step": None, "accuracy": 0.5},
        {"step": None, "accuracy": 0.5},
    ]


def test_a_stage_without_metrics_leaves_no_file(work):
    work.keep_metrics()
    assert list(work.out.iterdir()) == []
    assert list(read_metrics(work.out / METRICS_FILE)) == []


def test_a_line_cut_short_by_a_kill_is_passed_over(work):
    work.metric(1, loss=0.5)
    with open(work.scratch / METRICS_FILE, "a") as file:
        file.write('{"time": 1, "step": 2, "lo')
    assert values(work.scratch / METRICS_FILE) == [{"step": 1, "loss": 0.5}]
    work.keep_metrics()
    assert values(work.out / METRICS_FILE) == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize(
    ("asked", "terminal", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_progress_passes_on_every_item_and_is_seen_only_at_a_terminal(
    work, capsys, monkeypatch, asked, terminal, shown
):
    work.show_progress = asked
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(work.progress(iter(range(5)), "steps", total=5)) == list(range(5))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("tune crash steps" in printed.err) is shown
    assert bool(printed.err) is shown


def test_progress_takes_items_only_as_they_are_wanted(work):
    taken = []
    for item in work.progress((taken.append(number) or number for number in range(5)), total=5):
        if item == 1:
            break
    assert taken == [0, 1]


def test_who_asks_for_a_request_to_stop_promises_to_listen(work):
    assert not work.polls_for_stop
    assert work.stop_requested() is False
    assert work.polls_for_stop
    work.stop_signal = 15
    assert work.stop_requested() is True


def test_a_parent_is_opened_verified(work):
    key, inputs = stage_key("sample", "tasks.store.files", {"seed": 0}, ())
    with work.store.publishing("sample", key) as out:
        (out / "value.json").write_text("12")
        ref = work.store.publish("sample", key, out, inputs).ref
    assert (work.open(ref) / "value.json").read_text() == "12"
    os.truncate(work.open(ref) / "value.json", 1)
    with pytest.raises(EnvironmentFault, match="run the same command again"):
        work.open(ref)


def test_passes_are_as_large_as_fit_into_memory(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    work.fitting_tokens = 2048
    assert work.pass_tokens(1024, "tune.max_tokens") == 1024
    assert not caplog.messages
    assert work.pass_tokens(8192, "tune.max_tokens") == 2048
    assert caplog.messages == [
        "at most 2048 tokens in a forward pass instead of 8192 (tune.max_tokens), by its estimated memory"
    ]
    note_kill(work.scratch)
    assert work.pass_tokens(8192, "tune.max_tokens") == 1024


def test_after_a_kill_for_lack_of_memory_passes_are_half_of_the_largest(work: Work) -> None:
    assert work.pass_tokens(8192, "tune.max_tokens", 3000) == 8192
    note_kill(work.scratch)
    assert work.pass_tokens(8192, "tune.max_tokens", 3000) == 1500
    assert work.pass_tokens(8192, "tune.max_tokens") == 4096
    note_kill(work.scratch)
    assert work.pass_tokens(3, "tune.max_tokens") == 1


@pytest.mark.parametrize("name", stage_modules())
def test_every_stage_whose_passes_a_setting_bounds_makes_them_smaller_after_a_kill(name: str) -> None:
    module = importlib.import_module(name)
    (stage,) = [
        value for value in vars(module).values() if isinstance(value, Stage) and value.compute.__module__ == name
    ]
    parameters = inspect.signature(stage.compute).parameters.values()
    bounded = any(each.name == "max_tokens" or each.annotation in (TrainSettings, Harmonizing) for each in parameters)
    assert bounded == ("work.pass_tokens(" in inspect.getsource(module))
