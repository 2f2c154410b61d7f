"""Share the main memory of this machine among all stages on it, by what each is expected to need at most.

A reservation is a file that its stage holds locked, as with cores and GPUs: the kernel frees it when the holder dies.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.core.errors import InterruptedRun
from tasks.engine import machine_memory
from tasks.store.holders import leave_note, name_holder, read_note, take_note_away
from tasks.store.patience import END_IT, Patience

# Reading what every process uses takes a few milliseconds for each.
POLL_SECONDS = 0.5
PREFIX, SUFFIX = "memory-", ".lock"


@dataclass(frozen=True)
class _Reservation:
    num_bytes: int
    path: Path

    @property
    def note(self) -> dict[str, Any]:
        return read_note(self.path)


class Memory:
    """Reservations of main memory, shared by all processes that name the same folder.

    most: bytes that stages take together at most; by default what is free.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self._folder, self._most = folder, most

    @contextmanager
    def take(self, num_bytes: int, stopped: Callable[[], bool], label: str = "") -> Iterator[None]:
        """Wait until that many bytes are free beside all other reservations, and hold them until the end of the block.

        The only stage on the machine never waits: other programs may hold what it needs for ever. label: the purpose,
        shown to those who wait.

        Raises:
            InterruptedRun: when stopped() is true while waiting.
        """
        patience = Patience(lambda: self._awaited(num_bytes), END_IT)
        while (held := self._try(num_bytes, label)) is None:
            patience.tick()
            if stopped():
                raise InterruptedRun("interrupted while waiting for free memory")
            time.sleep(POLL_SECONDS)
        patience.over()
        try:
            yield
        finally:
            take_note_away(Path(held.lock_file))
            Path(held.lock_file).unlink(missing_ok=True)
            held.release()

    def _try(self, num_bytes: int, label: str) -> FileLock | None:
        """Reserve if there is room, and return the lock that holds the reservation."""
        with FileLock(self._folder / "memory.turn"):
            others = self._others()
            if others and sum(each.num_bytes for each in others) + num_bytes > self._for_stages(others):
                return None
            path = self._folder / f"{PREFIX}{num_bytes}-{uuid.uuid4().hex}{SUFFIX}"
            lock = FileLock(path, thread_local=False)
            lock.acquire(timeout=0)
            leave_note(path, label)
            return lock

    def _others(self) -> list[_Reservation]:
        """Return the reservations of living processes, and remove what dead ones left."""
        found = []
        for path in sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}")):
            try:
                with FileLock(path, timeout=0):
                    take_note_away(path)
                    path.unlink(missing_ok=True)
            except Timeout:
                found.append(_Reservation(int(path.name.split("-")[1]), path))
        return found

    def _for_stages(self, others: list[_Reservation]) -> int:
        """Return the bytes that all stages may use together: what is free, and what the running stages use already."""
        reserved: dict[int, int] = {}
        for each in others:
            if "pid" in (note := each.note):
                reserved[note["pid"]] = reserved.get(note["pid"], 0) + each.num_bytes
        used = sum(min(num_bytes, machine_memory.memory_of({pid})) for pid, num_bytes in reserved.items())
        free = machine_memory.free_memory() + used
        return free if self._most is None else min(free, self._most)

    def _awaited(self, num_bytes: int) -> str:
        """Name what is waited for, and who holds it."""
        with FileLock(self._folder / "memory.turn"):
            others = self._others()
        names = ", ".join(dict.fromkeys(name_holder(each.note) for each in others))
        reserved = sum(each.num_bytes for each in others)
        return (
            f"{num_bytes / 1e9:.1f} GB of memory ({reserved / 1e9:.1f} GB reserved by {names or 'nobody'};"
            f" {machine_memory.free_memory() / 1e9:.1f} GB free)"
        )
