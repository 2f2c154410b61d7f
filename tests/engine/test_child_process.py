"""Stages compute in processes of their own that are told to stop, and that outlive nobody."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import CrashError, EnvironmentFault, InterruptedRun, StageKilledError
from tasks.engine.child_process import KERNELS, Children, fix_environment
from tasks.store.artifacts import Store
from tests.places import ROOT

STAGES = "tests.store.sample_stages"


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """What `stage.py` says about one computation."""
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    store = Store(folder / "store")
    return {"out": folder / "out", "scratch": folder / "scratch", "store": str(store.root), "label": "slow"} | changes


class Call:
    """`Children.run` in a thread."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        watch: Callable[[], None] = lambda: None,
        stage: str = "slow",
        **arguments: Any,
    ) -> None:
        self.folder, self.stage = folder, stage
        self.outcome: Any = None
        self.thread = threading.Thread(target=self._work, args=(children, watch, arguments))
        self.thread.start()
        wait_for(lambda: (folder / "scratch" / "begun").exists() or not self.thread.is_alive())

    def _work(self, children: Children, watch: Callable[[], None], arguments: dict[str, Any]) -> None:
        try:
            self.outcome = children.run((STAGES, self.stage), arguments, spec(self.folder), watch)
        except Exception as error:
            self.outcome = error

    def result(self, seconds: float = 10) -> Any:
        """What it returned or raised, within the time."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"still computing after {seconds} s"
        return self.outcome


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)


def only_child(children: Children) -> int:
    """Number of the one process that computes."""
    (process,) = children._running
    return process.pid


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_does_not_poll_ends_by_the_signal_with_its_code(tmp_path, number, code):
    children = Children()
    call = Call(children, tmp_path, seconds=60)
    children.stop(number, seconds=10)
    error = call.result()
    assert isinstance(error, InterruptedRun)
    assert error.exit_code == code
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_polls_writes_its_checkpoint_first(tmp_path, number):
    children = Children()
    call = Call(children, tmp_path, seconds=60, polls=True)
    time.sleep(0.1)
    children.stop(number, seconds=10)
    assert call.result() == {}
    assert (tmp_path / "scratch" / "checkpoint").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("polls", [True, False])
def test_a_signal_to_every_process_of_a_job_stops_a_stage_in_order(tmp_path, number, polls):
    """It arrives directly and again from the orchestrating process; the server that forks stages lives on."""
    from multiprocessing import forkserver

    children = Children()
    call = Call(children, tmp_path / "first", seconds=60, polls=polls)
    server = forkserver._forkserver._forkserver_pid
    for received in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(server, received)
    for _ in range(3):
        os.kill(only_child(children), number)
    children.stop(signal.SIGTERM, seconds=10)
    outcome = call.result()
    if polls:
        assert outcome == {}
        assert (tmp_path / "first" / "scratch" / "checkpoint").exists()
    else:
        assert isinstance(outcome, InterruptedRun), outcome
        assert outcome.exit_code in (128 + number, 128 + signal.SIGTERM)
    assert Children().run((STAGES, "slow"), {"seconds": 0}, spec(tmp_path / "second")) == {}
    assert forkserver._forkserver._forkserver_pid == server


def test_nothing_starts_once_stopped(tmp_path):
    children = Children()
    children.stop(signal.SIGINT)
    with pytest.raises(InterruptedRun, match="slow was interrupted") as info:
        children.run((STAGES, "slow"), {"seconds": 0}, spec(tmp_path))
    assert info.value.exit_code == 130
    assert not (tmp_path / "scratch" / "begun").exists()


def test_a_signal_to_one_child_stops_that_one_only(tmp_path):
    children = Children()
    call = Call(children, tmp_path / "first", seconds=60)
    os.kill(only_child(children), signal.SIGTERM)
    error = call.result()
    assert isinstance(error, InterruptedRun)
    assert error.exit_code == 143
    assert children.run((STAGES, "slow"), {"seconds": 0}, spec(tmp_path / "second")) == {}


def test_f1_a_killed_child_is_said_with_what_to_do_and_the_next_one_runs(tmp_path):
    children = Children()
    call = Call(children, tmp_path / "first", seconds=60)
    os.kill(only_child(children), signal.SIGKILL)
    error = call.result()
    assert type(error) is StageKilledError
    assert "run the same command: finished stages are kept" in str(error)
    assert children.run((STAGES, "slow"), {"seconds": 0}, spec(tmp_path / "second")) == {}


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_f21_an_interrupt_after_a_request_to_stop_ends_the_step_at_once(tmp_path, first):
    children = Children()
    call = Call(children, tmp_path, stage="stubborn")
    pid = only_child(children)
    os.kill(pid, first)
    time.sleep(0.3)
    assert call.thread.is_alive(), "the first signal lets the step finish"
    os.kill(pid, signal.SIGINT)
    error = call.result(3)
    assert isinstance(error, InterruptedRun)
    assert error.exit_code == 130


def test_what_the_child_logs_is_logged_here_with_its_label(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        Children().run((STAGES, "talks"), {}, spec(tmp_path, label="capture"))
    said = [record for record in caplog.records if "row 7" in record.getMessage()]
    assert [(record.levelno, record.getMessage()) for record in said] == [(logging.WARNING, "capture: row 7 is odd")]


def test_the_environment_given_to_a_child_is_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CRASH_SAMPLE", raising=False)
    found = Children().run((STAGES, "talks"), {}, spec(tmp_path, environment={"CRASH_SAMPLE": "given"}))
    assert found == {"environment": "given"}
    assert "CRASH_SAMPLE" not in os.environ


def test_whoever_watches_sees_metrics_while_they_are_made_and_all_at_the_end(tmp_path):
    path = tmp_path / "scratch" / "metrics.jsonl"
    seen: list[int] = []

    def watch() -> None:
        seen.append(len(path.read_text().splitlines()) if path.exists() else 0)

    Children().run((STAGES, "talks"), {"metrics": 6}, spec(tmp_path), watch)
    assert seen[-1] == 6
    assert any(0 < number < 6 for number in seen)


def test_an_error_of_whoever_watches_does_not_wait_for_the_stage(tmp_path):
    def watch() -> None:
        raise EnvironmentFault("the watcher failed")

    children = Children()
    call = Call(children, tmp_path, watch, seconds=60)
    error = call.result(20)
    assert (type(error), str(error)) == (EnvironmentFault, "the watcher failed")
    assert not children._running


ORPHAN = """
import sys
from tasks.engine.runtime import Runtime
from tests.store.sample_stages import slow
slow.run(Runtime(store=sys.argv[1]), seconds=600, polls=True)
"""


def processes(mark: str) -> list[int]:
    """Numbers of all processes with our mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_text(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_children_die_with_a_parent_that_was_killed(tmp_path):
    mark = f"orphan-{uuid.uuid4()}"
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "CRASH_TEST_MARK": mark})
    try:
        wait_for(lambda: bool(list(tmp_path.glob("work/*/begun"))), 60)
        assert len(processes(mark)) >= 2, "the stage computes in another process"
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not processes(mark), 5)
    assert not list(tmp_path.glob("artifacts/*/*"))


FAILING = """
import sys
from tasks.engine.runtime import Runtime
from tests.store.sample_stages import failing
try:
    failing.run(Runtime(store=sys.argv[1]), how=sys.argv[2])
except Exception as error:
    print(type(error).__name__, sorted({"torch", "transformers", "mlflow", "prefect"} & set(sys.modules)))
"""


def test_a_failure_loads_no_heavy_package_into_the_parent(tmp_path):
    command = [sys.executable, "-c", FAILING, str(tmp_path), "diverged"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "DivergedError []\n", done.stderr


def test_an_unknown_stage_is_our_bug_with_its_trace(tmp_path):
    with pytest.raises(CrashError, match=r"(?s)AttributeError.*Traceback") as info:
        Children().run((STAGES, "nothing"), {}, spec(tmp_path))
    assert info.value.exit_code == 1


def test_every_stage_hashes_a_text_to_the_same_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's own code may go through a set, whose order is that of the hashes."""
    monkeypatch.setenv("PYTHONHASHSEED", "4")
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    printed = subprocess.run([sys.executable, "-c", "print(hash('a choice'))"], env=environment, capture_output=True)
    found = Children().run((STAGES, "hashing"), {"text": "a choice"}, spec(tmp_path))
    assert found == {"hash": int(printed.stdout)}


@pytest.mark.parametrize(("given", "kept"), [(None, "64"), ("256", "256")])
def test_a_stage_keeps_few_compiled_kernels_unless_told(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = KERNELS
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    fix_environment()
    assert os.environ[name] == kept
