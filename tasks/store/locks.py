"""One kernel lock per key: two processes never compute the same key at once, and a dead one never blocks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.store.holders import is_own, leave_note, name_holder, read_note
from tasks.store.patience import END_IT, Patience

# Time between two checks whether the run has been stopped.
PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.1


@contextmanager
def key_lock(
    folder: Path, stage: str, key: str, blocking: bool = True, stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the key's lock. A long wait is logged with the holder (`Patience`); stopped() ends the waiting.

    The lock is the kernel's, on an open file: its content is only a note and may be garbage.

    Raises:
        EnvironmentFault: when the lock file cannot be made.
        filelock.Timeout: when the lock is held and `blocking` is False.
        InterruptedRun: when stopped() is true.
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
        leave_note(path)
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, name: str, blocking: bool, stopped: Callable[[], bool]) -> None:
    if not blocking:
        lock.acquire(timeout=0)
        return
    patience = Patience(lambda: _awaited(name, path), END_IT)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS)
        except Timeout:
            if stopped():
                raise InterruptedRun(f"interrupted while waiting for {name}") from None
            patience.tick()
    patience.over()


def _awaited(name: str, path: Path) -> str | None:
    """Name the key and the process that computes it; None if that is this process, whose own log shows it."""
    note = read_note(path)
    return None if is_own(note) else f"{name}, which {name_holder(note)} computes"
