"""Places on this machine, each with one holder at a time: a core, a GPU, reserved memory, or a turn to choose.

A place is a file that its holder keeps locked: the kernel frees it when the holder dies, in whatever way.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.core.errors import InterruptedRun
from tasks.store.holders import leave_note, name_holder, read_note, take_note_away
from tasks.store.patience import END_IT, Patience

POLL_SECONDS = 0.05
Stopped = Callable[[], bool]


def never() -> bool:
    """Return False: the `stopped` of a run that cannot be stopped."""
    return False


class Places:
    """Resources of one kind, each with one holder at a time; threads of this process are served in order of arrival."""

    def __init__(self, kind: str, names: Sequence[str], folder: Path | None) -> None:
        self._kind, self._names, self._folder = kind, names, folder
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._locks = {name: self._lock(name) for name in [*names, "turn"]}

    def take(self, held: ExitStack, number: int, stopped: Stopped, label: str) -> list[str]:
        """Return the names of that many, released when `held` closes."""
        if not number:
            return []
        taken: list[str] = []
        patience = Patience(lambda: self._awaited(number), END_IT)
        with self._turn(stopped, patience, label):
            while len(taken) < number:
                free = (name for name in self._names if name not in taken and self._locks[name].try_take(label))
                name = next(free, None)
                if name is None:
                    patience.tick()
                    pause(stopped)
                    continue
                taken.append(name)
                # Released also when the wait for the next one is interrupted.
                held.callback(self._locks[name].give_back)
        patience.over()
        return [name for name in self._names if name in taken]

    def _awaited(self, number: int) -> str | None:
        """Name what is waited for, and the processes that hold it or are next in line; None if only this one is."""
        turn = self._locks["turn"]
        others = [lock.holder() for name, lock in self._locks.items() if name != "turn" and not lock.is_mine]
        # While it is not our turn, a resource without a note may be free.
        taken = [note for note in others if note or turn.is_mine]
        if not taken and turn.is_mine:
            return None
        kind = "GPU" if self._kind == "gpu" else self._kind
        wish = f"{number} free {kind}s" if number > 1 else f"a free {kind}"
        names = ", ".join(dict.fromkeys(map(name_holder, taken or [turn.holder()])))
        if not taken:
            return f"{wish} (next in line is {names})"
        return f"{wish} ({len(taken)} of {len(self._names)} taken by {names})"

    @contextmanager
    def _turn(self, stopped: Stopped, patience: Patience, label: str) -> Iterator[None]:
        """Let one taker at a time on this machine collect: two that each hold half of what they need would deadlock."""
        me = object()
        with self._changed:
            self._queue.append(me)
        try:
            with self._changed:
                while not self._changed.wait_for(lambda: self._queue[0] is me, timeout=10 * POLL_SECONDS):
                    refuse(stopped)
            while not self._locks["turn"].try_take(label):
                # Only the first thread of this process logs the wait; the others wait for the same.
                patience.tick()
                pause(stopped)
            try:
                yield
            finally:
                self._locks["turn"].give_back()
        finally:
            with self._changed:
                self._queue.remove(me)
                self._changed.notify_all()

    def _lock(self, name: str) -> "Place":
        return Place(self._folder / f"{self._kind}-{name}.lock" if self._folder else None)


class Place:
    """One place: free or taken, among threads and, with a file, among processes."""

    def __init__(self, path: Path | None) -> None:
        self._mine = threading.Lock()
        self._path = path
        self._file = FileLock(path, thread_local=False) if path else None

    def try_take(self, label: str = "") -> bool:
        """Take it if it is free, and return whether it was. label: the purpose."""
        if not self._mine.acquire(blocking=False):
            return False
        try:
            if self._file:
                self._file.acquire(timeout=0)
        except Timeout:
            self._mine.release()
            return False
        if self._path:
            leave_note(self._path, label)
        return True

    @property
    def is_mine(self) -> bool:
        """Whether a thread of this process has it."""
        return self._mine.locked()

    def holder(self) -> dict[str, Any]:
        """Return the note of the process that has it, if known."""
        return read_note(self._path) if self._path else {}

    def give_back(self) -> None:
        """Release it."""
        if self._file:
            assert self._path is not None
            take_note_away(self._path)
            self._file.release()
        self._mine.release()


def pause(stopped: Stopped) -> None:
    """Wait a moment before the next try.

    Raises:
        InterruptedRun: when stopped() is true.
    """
    refuse(stopped)
    time.sleep(POLL_SECONDS)


def refuse(stopped: Stopped) -> None:
    """Raise InterruptedRun when stopped() is true."""
    if stopped():
        raise InterruptedRun("interrupted while waiting for a free core or GPU")
