"""Notes that name the process that holds a lock, for the processes that wait for it.

The lock itself is the kernel's; a note may be missing or garbage.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.store.processes import is_gone, this_process

NOBODY_KNOWN = "another process"


def leave_note(lock: Path, label: str = "") -> None:
    """Write a note that this process holds the lock. label: the purpose."""
    with suppress(OSError):
        _path(lock).write_text(json.dumps({**this_process(), "label": label}))


def take_note_away(lock: Path) -> None:
    """Remove the note, before the lock is released."""
    with suppress(OSError):
        _path(lock).unlink()


def read_note(lock: Path) -> dict[str, Any]:
    """Read the note of the lock's holder; empty if there is none or its process has ended."""
    try:
        note = parse_note(_path(lock).read_bytes())
    except OSError:
        return {}
    return {} if is_gone(note) else note


def parse_note(content: bytes) -> dict[str, Any]:
    """Return a note's facts; empty for garbage."""
    try:
        note = json.loads(content)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def is_own(note: dict[str, Any]) -> bool:
    """Return whether the note names this process."""
    here = this_process()
    return all(note.get(name) == value for name, value in here.items())


def name_holder(note: dict[str, Any]) -> str:
    """Name the process, its machine and its purpose, as far as they are known."""
    if "pid" not in note or "host" not in note:
        return NOBODY_KNOWN
    label = f" ({note['label']})" if note.get("label") else ""
    return f"process {note['pid']} on {note['host']}{label}"


def _path(lock: Path) -> Path:
    return lock.with_suffix(".holder")
