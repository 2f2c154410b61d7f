"""Share the cores and GPUs of this machine among all runs on it.

Each core and GPU is a file that its user holds locked: the kernel frees it when the holder dies, in whatever way.
Prefect's own limits count for a whole server instead of a machine, hold up stages that are found in the store, and
release a killed holder's slot only after a minute or more.
"""

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.engine.memory import Memory
from tasks.store.holders import leave_note, name_holder, read_note, take_note_away
from tasks.store.patience import END_IT, Patience

POLL_SECONDS = 0.05
Stopped = Callable[[], bool]


def never() -> bool:
    """Return False: the `stopped` of a run that cannot be stopped."""
    return False


@dataclass
class Resources:
    """Cores and GPUs, which each stage takes before it computes, waiting for its turn.

    gpus: device numbers, as CUDA_VISIBLE_DEVICES names them; empty on a machine without GPUs. folder: of the locks; all
    processes that name the same one share cores and GPUs. Without it, only the threads of this process share them.
    memory: most bytes of main memory that stages take together; by default what is free.
    """

    cores: int
    gpus: list[str] = field(default_factory=list)
    folder: Path | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        names = [str(number) for number in range(self.cores)]
        # One queue for each kind: a stage without a GPU never waits behind one that waits for a GPU.
        self._cores, self._gpus = _Places("core", names, self.folder), _Places("gpu", self.gpus, self.folder)

    @contextmanager
    def take(
        self,
        cores: int = 1,
        gpus: int = 0,
        stopped: Stopped = never,
        label: str = "",
        num_bytes: int | None = None,
    ) -> Iterator["Allocation"]:
        """Wait for that many cores and GPUs (never more than exist) and release them at the end of the block.

        label: the purpose, shown to those who wait for them. num_bytes: main memory to wait for as well, with a folder.
        Whoever holds memory has its cores already, so that no two wait for each other.

        Raises:
            InterruptedRun: when stopped() is true while waiting.
        """
        cores, gpus = min(cores, self.cores), min(gpus, len(self.gpus))
        with ExitStack() as held:
            taken = self._gpus.take(held, gpus, stopped, label)
            self._cores.take(held, cores, stopped, label)
            if not (self.folder and num_bytes):
                yield Allocation(cores, taken)
                return
            reservation = held.enter_context(Memory(self.folder, self.memory).take(num_bytes, stopped, label))
            yield Allocation(cores, taken, reservation.started)


class _Places:
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
                    _pause(stopped)
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
                    _refuse(stopped)
            while not self._locks["turn"].try_take(label):
                # Only the first thread of this process logs the wait; the others wait for the same.
                patience.tick()
                _pause(stopped)
            try:
                yield
            finally:
                self._locks["turn"].give_back()
        finally:
            with self._changed:
                self._queue.remove(me)
                self._changed.notify_all()

    def _lock(self, name: str) -> "_Place":
        return _Place(self._folder / f"{self._kind}-{name}.lock" if self._folder else None)


class _Place:
    """One core or GPU: free or taken, among threads and, with a file, among processes."""

    def __init__(self, path: Path | None) -> None:
        self._mine = threading.Lock()
        self._path = path
        self._file = FileLock(path, thread_local=False) if path else None

    def try_take(self, label: str) -> bool:
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


def machine_folder() -> Path:
    """Return the folder of the locks that all runs of this user with the same temporary folder share on this machine.

    A batch system that gives each job its own temporary folder also gives it its own cores and GPUs, numbered from 0.

    Raises:
        EnvironmentFault: when the folder belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"crash-places-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise EnvironmentFault(f"{folder} belongs to another user; remove it, or set TMPDIR to a folder of your own")
    return folder


def _pause(stopped: Stopped) -> None:
    _refuse(stopped)
    time.sleep(POLL_SECONDS)


def _refuse(stopped: Stopped) -> None:
    if stopped():
        raise InterruptedRun("interrupted while waiting for a free core or GPU")


def ignore(pid: int) -> None:
    """Do nothing with the id of a process that has started."""


@dataclass(frozen=True)
class Allocation:
    """The cores and GPUs that one stage was given. started: to be called with the id of the process that computes."""

    cores: int
    gpus: list[str]
    started: Callable[[int], None] = ignore

    @property
    def device(self) -> str:
        """The device as torch names it inside the stage's process."""
        if not self.gpus:
            return "cpu"
        return "cuda:0" if len(self.gpus) == 1 else "auto"

    def environment(self) -> dict[str, str]:
        """Return the variables that restrict the stage's process to its GPUs and set its number of threads."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "OMP_NUM_THREADS": str(self.cores)}


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use, found without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return _named_gpus(chosen)
    folder = "/proc/driver/nvidia/gpus"
    return [str(number) for number in range(len(os.listdir(folder)))] if os.path.isdir(folder) else []


def _named_gpus(chosen: str) -> list[str]:
    """Parse CUDA_VISIBLE_DEVICES as CUDA does: an invalid name ends the list, and a duplicate one makes it empty."""
    parts = (part.strip() for part in chosen.split(","))
    named = list(takewhile(lambda part: part.isdigit() or part.startswith(("GPU-", "MIG-")), parts))
    return named if len(set(named)) == len(named) else []


def require_device(device: str) -> None:
    """Check that torch finds a GPU if the device is one.

    Raises:
        EnvironmentFault: when `device` is a GPU and torch cannot use any on this machine.
    """
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise EnvironmentFault(
            f"the environment names a GPU (CUDA_VISIBLE_DEVICES), but torch {torch.__version__} finds none here; set"
            " the variable to -1 to compute on the CPU, or install the CUDA build of torch and the driver"
        )
