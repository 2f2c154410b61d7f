"""Identify a process on a machine by more than its process id."""

import os
from pathlib import Path
from typing import Any


def process_start(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot, which differs for a later process of the same id.

    Empty if there is no such process, or it is a zombie.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else rest[18]


def this_process() -> dict[str, Any]:
    """Return facts by which another process on the same machine can check whether this one still lives."""
    pid = os.getpid()
    return {"host": os.uname().nodename, "pid": pid, "started": process_start(pid), "kernel": _kernel()}


def is_gone(process: dict[str, Any]) -> bool:
    """Return whether a process ran on this machine and has ended; False for one of another machine."""
    here = this_process()
    same_place = all(process.get(name) == here[name] and here[name] for name in ("host", "kernel"))
    pid, started = process.get("pid"), process.get("started")
    return bool(same_place and started and isinstance(pid, int) and process_start(pid) != started)


def _kernel() -> str:
    """Return the id of this boot and of the process namespace: containers may share a host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
