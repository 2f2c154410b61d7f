"""Notes that say which process holds a lock, for those who wait for it. The lock is the kernel's; a note may be missing
or garbage."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.store.processes import is_gone, this_process

NOBODY_KNOWN = "another process"


def leave_note(lock: Path, label: str = "") -> None:
    """Note that this process holds the lock. label: what for."""
    with suppress(OSError):
        _path(lock).write_text(json.dumps({**this_process(), "label": label}))


def take_note_away(lock: Path) -> None:
    """The lock is about to be given back."""
    with suppress(OSError):
        _path(lock).unlink()


def read_note(lock: Path) -> dict[str, Any]:
    """The note of whoever holds the lock; nothing where there is none, or its process has ended."""
    try:
        note = parse_note(_path(lock).read_bytes())
    except OSError:
        return {}
    return {} if is_gone(note) else note


def parse_note(content: bytes) -> dict[str, Any]:
    """A note's facts; nothing for garbage."""
    try:
        note = json.loads(content)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def is_own(note: dict[str, Any]) -> bool:
    """Whether it is this very process that the note names."""
    here = this_process()
    return all(note.get(name) == value for name, value in here.items())


def name_holder(note: dict[str, Any]) -> str:
    """Process, machine and purpose, as far as they are known."""
    if "pid" not in note or "host" not in note:
        return NOBODY_KNOWN
    label = f" ({note['label']})" if note.get("label") else ""
    return f"process {note['pid']} on {note['host']}{label}"


def _path(lock: Path) -> Path:
    return lock.with_suffix(".holder")
