"""Which process on which machine: told by everything that a process id alone does not say."""

import os
from pathlib import Path
from typing import Any


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, which tells it from a later one of the same number.

    Empty when there is none, or only what its parent has not cleared away yet.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else rest[18]


def this_process() -> dict[str, Any]:
    """Facts by which another process on the same machine sees whether this one still lives."""
    pid = os.getpid()
    return {"host": os.uname().nodename, "pid": pid, "started": process_start(pid), "kernel": _kernel()}


def is_gone(process: dict[str, Any]) -> bool:
    """Whether a process ran on this machine and has ended; of another machine's nothing is known."""
    here = this_process()
    same_place = all(process.get(name) == here[name] and here[name] for name in ("host", "kernel"))
    pid, started = process.get("pid"), process.get("started")
    return bool(same_place and started and isinstance(pid, int) and process_start(pid) != started)


def _kernel() -> str:
    """This boot of this machine, and whose process numbers are seen: containers have equal host names at times."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
