"""`crash worker`: take runs from the work pool on this machine, a limited number at once.

Prefect's worker does not forward a SIGTERM to its runs. This process does, so that they can write their checkpoints
before the machine goes away (a spot instance, `crash down`, a stopped container).
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from flows.running.environment import check_prefect, prepare_environment
from flows.service.servers import BIN, CODE
from tasks.store.signals import STOPPING

# A spot instance gives thirty seconds.
CHECKPOINT_SECONDS = 28.0
# Prefect's worker ends at once when asked, but one that has had runs was seen to go on for minutes.
LEAVE_SECONDS = 10.0
POLL_SECONDS = 0.1
PAUSE_SECONDS = 3.0
# A worker that cannot work at all ends soon after each start.
SOON_SECONDS, MAX_FAILURES = 60.0, 5
# "Signal this process when its parent dies", from linux/prctl.h.
PR_SET_PDEATHSIG = 1


def worker(home: Path, pool: str, kind: str, queue: str | None, limit: int | None, name: str | None) -> int:
    """Run Prefect's worker in an environment that all its runs inherit; return the exit code."""
    from tasks.core.errors import InputError
    from tasks.engine.resources import visible_gpus

    prepare_environment(home)
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError("a worker needs a Prefect server: set PREFECT_API_URL, or start one with `crash up`")
    if name and any(character in name for character in "/%"):
        raise InputError(f"--name {name}: Prefect takes no worker whose name has a / or a %; choose another name")
    check_prefect()
    os.environ.setdefault("CRASH_HOME", str(home.absolute()))
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    # Of its flow processes, which change no variable of theirs while threads run.
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")
    command = [str(BIN / "prefect"), "worker", "start", "--pool", pool, "--type", kind]
    command += ["--name", name or socket.gethostname()]
    if kind == "process":
        # A run uses all GPUs and cores of the machine that its stages can use; more runs than GPUs would only wait.
        # Sweeps wait for runs: a worker that takes both could be filled with sweeps.
        command += ["--limit", str(limit or max(1, len(visible_gpus()))), "--work-queue", queue or "default"]
    else:
        command += ["--limit", str(limit)] if limit else []
        command += ["--work-queue", queue] if queue else []
    if os.environ.get("PREFECT_WORKER_WEBSERVER_PORT"):
        command.append("--with-healthcheck")
    return serve(command, CODE)


def serve(
    command: Sequence[str], folder: Path, pause_seconds: float = PAUSE_SECONDS, leave_seconds: float = LEAVE_SECONDS
) -> int:
    """Run the worker until this process is asked to stop, then let its runs end first; return the exit code.

    A worker that ends without being asked (as when the server is away for long) is restarted, until it has ended soon
    after its start several times in a row. One that was asked to end is killed after leave_seconds.
    """
    told: list[int] = []
    running: list[subprocess.Popen] = []

    def stop(number: int, _frame: Any) -> None:
        if not told:
            told.append(number)
            _end_runs(running[-1].pid)
            running[-1].send_signal(signal.SIGTERM)
            late = threading.Timer(leave_seconds, running[-1].kill)
            late.daemon = True
            late.start()

    failures = 0
    while failures < MAX_FAILURES and not told:
        begun = time.monotonic()
        # In a separate session with its runs: on a signal to our process group, Prefect's worker would kill them.
        running.append(subprocess.Popen(command, cwd=folder, preexec_fn=_die_with_parent, start_new_session=True))
        for number in STOPPING:
            signal.signal(number, stop)
        code = running[-1].wait()
        if told:
            break
        failures = failures + 1 if time.monotonic() - begun < SOON_SECONDS else 1
        print(f"crash worker: Prefect's worker ended with exit code {code}; it is started again", flush=True)
        time.sleep(pause_seconds)
    return 128 + told[0] if told else code


def _end_runs(worker: int) -> None:
    """Ask the runs to stop and wait for their checkpoints, while the worker is suspended and takes no new runs."""
    with suppress(psutil.NoSuchProcess):
        frozen = psutil.Process(worker)
        frozen.suspend()
        runs = frozen.children()
        for run in runs:
            with suppress(psutil.NoSuchProcess):
                run.terminate()
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while any(map(_goes_on, runs)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        frozen.resume()


def _goes_on(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
