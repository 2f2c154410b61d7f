"""Processes told apart: a number alone is used again by the system."""

from pathlib import Path


def start_ticks(pid: int) -> str:
    """Start time of a process in clock ticks since boot, "" when there is none (or only its remains)."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else rest[18]
