"""One kernel lock per key: two processes never compute the same thing at once, and a dead one never blocks."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.core.errors import EnvironmentFault, InterruptedRun

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.1


@contextmanager
def key_lock(
    folder: Path, stage: str, key: str, blocking: bool = True, stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the key's lock. Who waits longer than two seconds is told for whom; stopped() ends the waiting.

    The lock is the kernel's, on an open file: its content is only a note and may be garbage. Raises EnvironmentFault
    when the lock file cannot be made, filelock.Timeout when not blocking and held, InterruptedRun when stopped.
    """
    path = folder / f"{stage}-{key[:32]}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        _acquire(lock, path, f"{stage} {key[:12]}", blocking, stopped)
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise EnvironmentFault(
            f"the lock {path} cannot be taken ({error.strerror}); make the store writable or choose another one"
        ) from error
    try:
        _leave_note(path)
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, name: str, blocking: bool, stopped: Callable[[], bool]) -> None:
    if not blocking:
        lock.acquire(timeout=0)
        return
    told = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS)
        except Timeout:
            if stopped():
                raise InterruptedRun(f"interrupted while waiting for {name}") from None
            if not told:
                logger.info("waiting for %s, which %s computes", name, _holder(path))
                told = True


def _leave_note(path: Path) -> None:
    note = json.dumps({"host": os.uname().nodename, "pid": os.getpid()})
    try:
        (path.with_suffix(".holder")).write_text(note)
    except OSError:
        return


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.with_suffix(".holder").read_text())
        return f"process {note['pid']} on {note['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
