"""Share the cores and GPUs of this machine among all runs on it.

Prefect's own limits count for a whole server instead of a machine, hold up stages that are found in the store, and
release a killed holder's slot only after a minute or more.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from tasks.core.errors import EnvironmentFault
from tasks.engine.memory import Memory
from tasks.engine.places import Places, Stopped, never


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
        self._cores, self._gpus = Places("core", names, self.folder), Places("gpu", self.gpus, self.folder)

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
