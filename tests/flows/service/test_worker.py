"""The process around Prefect's worker: it starts it again when it ends by itself, and not for ever."""

import os
import signal
import subprocess
import sys
import time

import pytest

from flows.service.worker import MAX_FAILURES, serve
from tests.places import ROOT

# A run needs a moment for its checkpoint. A worker that is told to end kills its run, as Prefect's does.
RUN = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), open('saved', 'w').close(), sys.exit()))"
WORKER = f"""import signal, subprocess, sys
open('started', 'a').write('x')
run = subprocess.Popen([sys.executable, '-c', {RUN + "; open('ready', 'w').close(); time.sleep(60)"!r}])
signal.signal(15, lambda *_: (run.kill(), sys.exit()))
run.wait()
"""
SERVE = "import sys; from pathlib import Path; from flows.service.worker import serve; "


def test_a_worker_that_ends_by_itself_is_started_again_but_not_for_ever(tmp_path):
    command = [sys.executable, "-c", "open('started', 'a').write('x'); raise SystemExit(7)"]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        assert serve(command, tmp_path, pause_seconds=0) == 7
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len((tmp_path / "started").read_text()) == MAX_FAILURES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_told_to_end_it_lets_its_runs_save_first(send, number, tmp_path):
    code = f"{SERVE} sys.exit(serve([sys.executable, '-c', {WORKER!r}], Path({str(tmp_path)!r})))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    outer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    send(outer.pid, number)
    assert outer.wait(20) == 128 + number
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "started").read_text() == "x", "and no second one was started"


def test_a_worker_that_goes_on_when_asked_to_end_is_killed(tmp_path):
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); time.sleep(60)"
    told = f"sys.exit(serve([sys.executable, '-c', {stubborn!r}], Path({str(tmp_path)!r}), leave_seconds=0.5))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    outer = subprocess.Popen([sys.executable, "-c", SERVE + told], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    outer.terminate()
    assert outer.wait(20) == 128 + signal.SIGTERM
