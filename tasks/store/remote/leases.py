"""Leases on an object store: one machine at a time computes a key, and a dead one does not block others for long.

The holder of `leases/<stage>-<key>/<generation>.json` is the process that created the highest generation. It rewrites
its object every few seconds. A waiting process takes the next generation, by conditional creation, once the object says
that it was released, or its process on this same machine is gone, or it has not changed for some time on the waiter's
own clock. Clocks of two machines are never compared.
"""

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.store.holders import name_holder, parse_note
from tasks.store.patience import END_IT, Patience
from tasks.store.processes import is_gone, this_process
from tasks.store.remote.objects import Remote

logger = logging.getLogger(__name__)
FOLDER = "leases"


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds between two beats of a holder, of silence after which it counts as dead, and between two checks."""

    beat: float = 5.0
    silence: float = 30.0
    look: float = 1.0


class Leases:
    """Leases under one URL."""

    def __init__(self, remote: Remote, times: LeaseTimes | None = None) -> None:
        self.remote = remote
        self.times = times or LeaseTimes()

    @contextmanager
    def hold(self, stage: str, key: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the lease of a key. A long wait is logged with the holder; stopped() ends the waiting.

        After a normal end nothing of the lease is left: the artifact exists, and later processes find it.

        Raises:
            InterruptedRun: when stopped() is true.
        """
        name = f"{stage}-{key}"
        token = uuid.uuid4().hex
        generation = self._acquire(name, f"{stage} {key[:12]}", token, stopped)
        beats = _Beats(self.remote, _path(name, generation), token, self.times.beat)
        try:
            with beats:
                yield
        except BaseException:
            with suppress(EnvironmentFault):
                self.remote.write(_path(name, generation), _note(token, "released"))
            raise
        with suppress(EnvironmentFault):
            # Delete our own one last, so that no process sees a dead one as the highest.
            self.remote.delete([_path(name, each) for each in self._generations(name) if each <= generation])

    def _acquire(self, name: str, shown: str, token: str, stopped: Callable[[], bool]) -> int:
        watch, content = _Watch(self.times), None
        patience = Patience(lambda: f"{shown}, which {name_holder(parse_note(content or b''))} computes", END_IT)
        while True:
            seen = self._generations(name)
            content = self.remote.read(_path(name, seen[-1])) if seen else None
            if seen and content is None:
                continue  # ended between the two reads
            if content is None or watch.is_free(content):
                mine = seen[-1] + 1 if seen else 1
                if self._take(name, mine, seen, token):
                    patience.over()
                    return mine
                time.sleep(random.uniform(0, self.times.look))
                continue
            if stopped():
                raise InterruptedRun(f"interrupted while waiting for {shown}")
            patience.tick()
            time.sleep(self.times.look)

    def _take(self, name: str, generation: int, seen: list[int], token: str) -> bool:
        if not self.remote.create(_path(name, generation), _note(token, "held")):
            return False
        # After a publication a lease starts again at 1, while another waiter may have continued from the old number.
        unseen = set(self._generations(name)) - {*seen, generation}
        if unseen:
            self.remote.delete([_path(name, generation)])
        return not unseen

    def _generations(self, name: str) -> list[int]:
        numbers = [path.rpartition("/")[2].removesuffix(".json") for path in self.remote.entries(f"{FOLDER}/{name}")]
        return sorted(int(number) for number in numbers if number.isdecimal())


class _Watch:
    """The time that a holder has been silent, counted over the checks of this waiter."""

    def __init__(self, times: LeaseTimes) -> None:
        self._times = times
        self._content = b""
        self._looked = self._silent = 0.0

    def is_free(self, content: bytes) -> bool:
        """Return whether the lease of the holder with this note can be taken over."""
        now = time.monotonic()
        if content == self._content:
            # While the server was unreachable the holder could not write either: a long gap counts as one check.
            self._silent += min(now - self._looked, 2 * self._times.look)
        else:
            self._content, self._silent = content, 0.0
        self._looked = now
        note = parse_note(content)
        return note.get("state") == "released" or is_gone(note) or self._silent >= self._times.silence


class _Beats:
    """A thread that rewrites the holder's note during the block."""

    def __init__(self, remote: Remote, path: str, token: str, seconds: float) -> None:
        self._remote, self._path, self._token, self._seconds = remote, path, token, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {path}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        beat, has_logged = 0, False
        while not self._over.wait(self._seconds):
            beat += 1
            try:
                self._remote.write(self._path, _note(self._token, "held", beat))
            except EnvironmentFault as fault:
                if not has_logged:
                    logger.warning("a lease could not be renewed, another worker may compute the same: %s", fault)
                    has_logged = True


def _path(name: str, generation: int) -> str:
    return f"{FOLDER}/{name}/{generation:06d}.json"


def _note(token: str, state: str, beat: int = 0) -> bytes:
    return json.dumps({"token": token, "state": state, "beat": beat, **this_process()}).encode()
