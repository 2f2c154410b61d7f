"""Tracking events on disk first: an append-only journal per run and how far it has been delivered.

The run writes lines here and never waits for a server; a sender delivers them in order. What a server that is away
does not take stays in the journal and is delivered by the next run.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Events of one run in `<folder>/<run_id>.jsonl`; the byte up to which they are delivered in `.sent` beside it."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / f"{run_id}.jsonl"
        self.mark = folder / f"{run_id}.sent"
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **event: Any) -> None:
        """Append one event."""
        line = json.dumps({"kind": kind, **event}) + "\n"
        with self._lock, open(self.path, "a") as file:
            file.write(line)

    def pending(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Events not delivered yet, each with the byte offset behind it; a line cut short ends the listing."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.delivered)
            while (line := file.readline()).endswith(b"\n"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut short by a full disk, and written on behind
                yield file.tell(), event

    @property
    def delivered(self) -> int:
        """Bytes of the journal that have been delivered."""
        try:
            return int(self.mark.read_text())
        except (OSError, ValueError):
            return 0

    def acknowledge(self, offset: int) -> None:
        """Everything before this byte has been delivered."""
        temporary = self.mark.with_suffix(".tmp")
        temporary.write_text(str(offset))
        os.replace(temporary, self.mark)

    def everything_delivered(self) -> bool:
        """Whether nothing waits."""
        return not self.path.exists() or self.delivered >= self.path.stat().st_size
