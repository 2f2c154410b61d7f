"""Who may compute now: cores and GPUs of this machine, shared among the stages of this process."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Resources:
    """A counted pool. Each stage takes its cores, and GPUs where it wants them, and waits its turn.

    gpus: device numbers, as CUDA_VISIBLE_DEVICES names them; empty on a machine without.
    """

    cores: int
    gpus: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_cores = self.cores
        self._free_gpus = list(self.gpus)
        self._changed = threading.Condition()

    @contextmanager
    def take(self, cores: int = 1, gpus: int = 0) -> Iterator["Share"]:
        """Wait for that many cores and GPUs (never more than there are) and give them back at the end."""
        cores, gpus = min(cores, self.cores), min(gpus, len(self.gpus))
        with self._changed:
            self._changed.wait_for(lambda: self._free_cores >= cores and len(self._free_gpus) >= gpus)
            self._free_cores -= cores
            taken, self._free_gpus = self._free_gpus[:gpus], self._free_gpus[gpus:]
        try:
            yield Share(cores, taken)
        finally:
            with self._changed:
                self._free_cores += cores
                self._free_gpus = sorted(self._free_gpus + taken)
                self._changed.notify_all()


@dataclass(frozen=True)
class Share:
    """What one stage was given."""

    cores: int
    gpus: list[str]

    @property
    def device(self) -> str:
        """The device as torch names it inside the stage's process."""
        if not self.gpus:
            return "cpu"
        return "cuda:0" if len(self.gpus) == 1 else "auto"

    def environment(self) -> dict[str, str]:
        """Variables that make the stage's process see its GPUs only."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "OMP_NUM_THREADS": str(self.cores)}


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Numbers of the GPUs that this process may use, found without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() and part.strip() != "-1"]
    folder = "/proc/driver/nvidia/gpus"
    return [str(number) for number in range(len(os.listdir(folder)))] if os.path.isdir(folder) else []
