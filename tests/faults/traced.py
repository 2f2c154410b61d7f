"""Faults at a system call of one function: it runs in a forked process, to which strace attaches before it begins."""

import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.core.errors import CrashError

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
KILL, FULL = "signal=SIGKILL", "error=ENOSPC"
BUG = 99


@dataclass(frozen=True)
class Outcome:
    """The end of a function with a fault. code: exit code, negative for a signal; said: text of its error."""

    has_fired: bool
    code: int
    said: str


def with_fault(work: Callable[[], object], call: str, fault: str, number: int, scratch: Path) -> Outcome:
    """Run a function with a fault at the `number`-th such system call that it makes. scratch: folder for two files."""
    said, trace = scratch / "said", scratch / "trace"
    for file in (said, trace):
        file.unlink(missing_ok=True)
    begin, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        os.read(begin, 1)
        os._exit(_run(work, said))
    os.close(begin)
    command = [str(STRACE), "-qq", "-o", str(trace), "-p", str(child), "-e", f"trace={call}"]
    tracer = subprocess.Popen([*command, "-e", f"inject={call}:{fault}:when={number}"], stderr=subprocess.PIPE)
    try:
        _wait_for_tracer(child, tracer)
    finally:
        os.close(ready)
        status = os.waitpid(child, 0)[1]
        tracer.communicate()
    text = trace.read_text()
    has_fired = "(INJECTED)" in text or "+++ killed by SIGKILL" in text
    return Outcome(has_fired, os.waitstatus_to_exitcode(status), said.read_text() if said.exists() else "")


def _run(work: Callable[[], object], said: Path) -> int:
    try:
        work()
    except CrashError as error:
        said.write_text(str(error))
        return error.exit_code
    except BaseException:
        said.write_text(traceback.format_exc())
        return BUG
    return 0


def _wait_for_tracer(child: int, tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
        if tracer.poll() is not None:
            pytest.skip("strace may not attach to processes here")
        assert time.monotonic() < deadline, "strace does not attach"
        time.sleep(0.005)
