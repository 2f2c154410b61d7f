"""Share the main memory of this machine among all stages on it, by what each is expected to need at most.

A reservation is a file that its stage holds locked, as with cores and GPUs: the kernel frees it when the holder dies.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import InterruptedRun
from tasks.engine import machine_memory
from tasks.engine.places import Place, Stopped
from tasks.store.holders import name_holder, read_note, take_note_away
from tasks.store.patience import END_IT, Patience

# To look for free memory; and for the place at the front of the queue, which most stages hold for a moment.
POLL_SECONDS, QUEUE_SECONDS = 1.0, 0.05
PREFIX, SUFFIX = "memory-", ".lock"


class Need(NamedTuple):
    """Memory that a stage needs, or that is available, in bytes: main memory, and that of all its GPUs together.

    streamed: whether it needs only so much because it loads a model's blocks one at a time; pass_tokens: because its
    forward passes have at most so many padded tokens, 0 where its setting holds.
    """

    main: float
    gpu: float = 0.0
    streamed: bool = False
    pass_tokens: int = 0

    def fits(self, total: "Need") -> bool:
        """Return whether both are no more than there is."""
        return self.main <= total.main and self.gpu <= total.gpu


@dataclass(frozen=True)
class Reservation:
    """Bytes that one stage holds; path: of its lock file, beside which lie the holder's note and its child's id."""

    num_bytes: int
    path: Path

    def started(self, pid: int) -> None:
        """Note the process that computes, whose use of memory counts as part of the reservation."""
        with suppress(OSError):
            self.path.with_suffix(".pid").write_text(str(pid))

    @property
    def used(self) -> int:
        """Bytes of the reservation that its process uses already."""
        try:
            pid = int(self.path.with_suffix(".pid").read_text())
        except (OSError, ValueError):
            return 0
        return min(self.num_bytes, machine_memory.memory_of(pid))

    def remove(self) -> None:
        """Remove its files."""
        take_note_away(self.path)
        for path in (self.path.with_suffix(".pid"), self.path):
            path.unlink(missing_ok=True)


class Memory:
    """Reservations of main memory, shared by all processes that name the same folder.

    limit: bytes that stages take together at most; by default what is free.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder, self._limit = folder, limit

    @contextmanager
    def take(self, num_bytes: int, stopped: Stopped, label: str = "") -> Iterator[Reservation]:
        """Wait until that many bytes are free beside all other reservations, and hold them until the end of the block.

        Stages wait in a queue, so that a large one is not passed by small ones for ever. The only stage on the machine
        never waits: other programs may hold what it needs for ever. label: the purpose, shown to those who wait.

        Raises:
            InterruptedRun: when stopped() is true while waiting.
        """
        patience = Patience(lambda: self._awaited(num_bytes), END_IT)

        def pause() -> None:
            patience.tick()
            if stopped():
                raise InterruptedRun("interrupted while waiting for free memory")

        with ExitStack() as held:
            with self._first_in_line(pause, label):
                while not self._fits(num_bytes):
                    pause()
                    time.sleep(POLL_SECONDS)
                reservation = self._reserve(num_bytes, label, held)
            patience.over()
            yield reservation

    @contextmanager
    def _first_in_line(self, pause: Callable[[], None], label: str) -> Iterator[None]:
        queue = Place(self._folder / "memory.queue")
        while not queue.try_take(label):
            pause()
            time.sleep(QUEUE_SECONDS)
        try:
            yield
        finally:
            queue.give_back()

    def _fits(self, num_bytes: int) -> bool:
        others = self._others()
        if not others:
            return True
        for_stages = machine_memory.free_memory() + sum(each.used for each in others)
        if self._limit is not None:
            for_stages = min(for_stages, self._limit)
        return sum(each.num_bytes for each in others) + num_bytes <= for_stages

    def _reserve(self, num_bytes: int, label: str, held: ExitStack) -> Reservation:
        reservation = Reservation(num_bytes, self._folder / f"{PREFIX}{num_bytes}-{uuid.uuid4().hex}{SUFFIX}")
        place = Place(reservation.path)
        is_taken = place.try_take(label)
        assert is_taken, "no other process has a reason to hold a file with this name"
        held.callback(place.give_back)
        held.callback(reservation.remove)
        return reservation

    def _others(self) -> list[Reservation]:
        """Return the reservations of living processes, and remove what dead ones left."""
        found = []
        for reservation in self._listed():
            place = Place(reservation.path)
            if place.try_take():
                reservation.remove()
                place.give_back()
            else:
                found.append(reservation)
        return found

    def _listed(self) -> list[Reservation]:
        paths = sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}"))
        return [Reservation(int(path.name.split("-")[1]), path) for path in paths]

    def _awaited(self, num_bytes: int) -> str:
        """Name what is waited for, and who holds it."""
        others = self._listed()
        names = ", ".join(dict.fromkeys(name_holder(read_note(each.path)) for each in others))
        reserved = sum(each.num_bytes for each in others)
        return (
            f"{num_bytes / 1e9:.1f} GB of memory ({reserved / 1e9:.1f} GB reserved by {names or 'nobody'};"
            f" {machine_memory.free_memory() / 1e9:.1f} GB free)"
        )
