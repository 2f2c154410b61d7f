"""A function called in a separate process: its result, its errors, and no process left behind."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tasks.core.errors import CrashError, EnvironmentFault, InputError, InterruptedRun, StageKilledError
from tasks.engine.calls import call_in_child


def pid_after(seconds: float, note: str = "") -> int:
    """Number of the process, noted in a file before it sleeps."""
    if note:
        Path(note).write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()


def refuse() -> None:
    raise InputError("the model is bad")


def surprise() -> None:
    raise KeyError("surprise")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_back_from_another_process():
    assert call_in_child(__name__, "pid_after", 0.0) != os.getpid()


def test_errors_come_back_as_what_they_are():
    with pytest.raises(InputError, match=r"^the model is bad$"):
        call_in_child(__name__, "refuse")
    with pytest.raises(CrashError, match=r"(?s)surprise failed: KeyError: 'surprise'.*test_calls\.py"):
        call_in_child(__name__, "surprise")
    with pytest.raises(StageKilledError, match="die: its process was killed"):
        call_in_child(__name__, "die")


def test_a_call_that_hangs_is_given_up_and_one_that_is_stopped_ends(tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(EnvironmentFault, match="pid_after takes too long"):
        call_in_child(__name__, "pid_after", 60.0, str(note), seconds=1.0)
    assert not psutil.pid_exists(int(note.read_text()))
    note.unlink()
    with pytest.raises(InterruptedRun):
        call_in_child(__name__, "pid_after", 60.0, str(note), stopped=note.exists)
    assert not psutil.pid_exists(int(note.read_text()))
