"""Tracking events on disk: an append-only journal per run, and how far it has been delivered.

The run writes lines here and never waits for a server; a sender delivers them in order. Events that an unreachable
server has not received stay in the journal, and the next run delivers them.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.store.files import replace_file


class Journal:
    """Events of one run in `<folder>/<run_id>.jsonl`; `.sent` beside it has the byte up to which they are delivered."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / f"{run_id}.jsonl"
        self.mark = folder / f"{run_id}.sent"
        self._lock = threading.Lock()
        self._claimed: int | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def claim(self) -> bool:
        """Become the one process that delivers it, until `release` or the end of this process; False if another one is.

        By the kernel's lock, not by the age of the file: clocks jump, and a run may write nothing for an hour and still
        live.
        """
        with self._lock:
            if self._claimed is None:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    return False
                except OSError:
                    pass  # a disk without locks: other processes cannot be noticed
                self._claimed = handle
            return True

    def release(self) -> None:
        """Let another process deliver it."""
        with self._lock:
            if self._claimed is not None:
                os.close(self._claimed)
                self._claimed = None

    def write(self, kind: str, **event: Any) -> None:
        """Append one event on a new line, also where a kill or a full disk has left half a line."""
        line = json.dumps({"kind": kind, **event}).encode() + b"\n"
        with self._lock, open(self.path, "a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)

    def pending(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield undelivered events, each with the byte offset after it; a line cut short ends the iteration."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.delivered)
            while (line := file.readline()).endswith(b"\n"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut short by a full disk, with later lines after it
                yield file.tell(), event

    @property
    def delivered(self) -> int:
        """Bytes of the journal that have been delivered."""
        try:
            return int(self.mark.read_text())
        except (OSError, ValueError):
            return 0

    def acknowledge(self, offset: int) -> None:
        """Record that everything before this byte has been delivered."""
        replace_file(self.mark, str(offset).encode())

    def everything_delivered(self) -> bool:
        """Return whether no event is left to deliver."""
        return not self.path.exists() or self.delivered >= self.path.stat().st_size
