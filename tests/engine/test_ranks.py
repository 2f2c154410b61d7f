"""Several processes of one stage: one result, one clear error, and nobody left whatever happens."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import CrashError, DivergedError, StageKilledError
from tasks.engine.ranks import run_ranks
from tasks.engine.work import Work
from tasks.store.artifacts import Store
from tests.engine.test_child_process import wait_for

FUNCTION = ("tests.store.sample_stages", "together")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    return Work(
        tmp_path / "out", tmp_path / "scratch", Store(tmp_path / "store"), label="tune", num_threads=4, num_processes=2
    )


def run(work: Work, how: str) -> dict[str, Any]:
    return run_ranks(work, FUNCTION, {"how": how})


def none_left(work: Work) -> bool:
    """Whether both processes are gone."""
    pids = [int(path.read_text()) for path in work.scratch.glob("*.pid")]
    assert len(pids) == 2
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_first_one_answers_and_is_the_only_one_heard(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert run(work, "nothing") == {"total": 3.0, "threads": 2, "device": "cpu"}
    assert caplog.text.count("both are here") == 1
    assert none_left(work)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("diverged", DivergedError, r"^the loss of one part is bad$"),
        ("sleeps", DivergedError, r"^the loss of one part is bad$"),
        ("bug", CrashError, r"(?s)process 2 of 2 failed: KeyError: .surprise.*Traceback"),
        ("killed", StageKilledError, r"process 2 of 2: its process was killed \(signal 9\)"),
        ("exit", CrashError, r"process 2 of 2: its process ended with exit code 7"),
    ],
)
def test_the_error_of_one_ends_all_and_is_the_one_that_is_said(
    work: Work, how: str, kind: type[CrashError], message: str
) -> None:
    with pytest.raises(kind, match=message) as info:
        run(work, how)
    ended = time.time() - max(path.stat().st_mtime for path in work.scratch.glob("*.pid"))
    assert type(info.value) is kind
    assert ended < 15
    assert none_left(work)


def test_a_request_to_stop_reaches_all(work: Work) -> None:
    """As the handler of a signal in the stage's own process leaves it; the others only ever get SIGTERM."""

    def stop() -> None:
        wait_for(lambda: len(list(work.scratch.glob("*.pid"))) == 2)
        work.stop_signal = 2

    thread = threading.Thread(target=stop)
    thread.start()
    assert run(work, "waits for a stop") == {"stopped": 15}
    thread.join()
    assert none_left(work)


def test_they_end_with_the_process_that_started_them(work: Work) -> None:
    """Through the stage's process, which is killed."""
    from tasks.engine.child_process import Children

    spec = {"out": work.out, "scratch": work.scratch, "store": str(work.store.root), "label": "", "num_processes": 2}
    children, raised = Children(), []

    def call() -> None:
        try:
            children.run(FUNCTION, {"how": "waits for a stop"}, spec)
        except CrashError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: len(list(work.scratch.glob("*.pid"))) == 2, 60)
    [process] = children._running
    os.kill(process.pid, 9)
    thread.join(30)
    assert type(raised[0]) is StageKilledError
    wait_for(lambda: none_left(work), 20)
