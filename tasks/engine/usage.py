"""Measure a tuning's use of the machine while it runs: memory, and the utilisation of its GPUs."""

import time
from contextlib import suppress

GIB = 2**30
# Linux reports the peak resident memory in KiB.
RESIDENT_UNIT = 2**10
# The driver's figure is a mean over up to a second; a query takes milliseconds.
UTILIZATION_SECONDS = 1.0


class Usage:
    """Memory of this process in GiB and, for each GPU that it computes on, memory in GiB and utilisation in percent.

    GPUs are numbered as the stage sees them, so gpu0 is the first of those it was given. Utilisation is left out if the
    driver's library (nvidia-ml-py) does not answer.
    """

    def __init__(self, device: str, rank: int | None = None) -> None:
        import psutil

        self._name = f"process{rank}_memory_gib" if rank else "memory_gib"
        self._process = psutil.Process()
        self._gpus = _gpus(device)
        self._utilization: dict[int, float] = {}
        self._asked = -UTILIZATION_SECONDS
        self._answers = True

    def read(self) -> dict[str, float]:
        """Return the current figures; the peaks are since the process started."""
        values = {self._name: self._process.memory_info().rss / GIB}
        if self._gpus:
            self._ask_the_driver()
        for gpu in self._gpus:
            values |= self._read_gpu(gpu)
        return {name: round(value, 4) for name, value in values.items()}

    def peak(self) -> dict[str, float]:
        """Return the peak resident memory of this process in GiB, and the peak memory on any one of its GPUs."""
        import resource

        from torch import cuda

        values = {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RESIDENT_UNIT / GIB}
        if self._gpus:
            values["peak_gpu_memory_gib"] = max(cuda.max_memory_allocated(gpu) for gpu in self._gpus) / GIB
        return {name: round(value, 4) for name, value in values.items()}

    def _read_gpu(self, gpu: int) -> dict[str, float]:
        from torch import cuda

        values = {
            f"gpu{gpu}_memory_gib": cuda.memory_allocated(gpu) / GIB,
            f"gpu{gpu}_peak_memory_gib": cuda.max_memory_allocated(gpu) / GIB,
        }
        if gpu in self._utilization:
            values[f"gpu{gpu}_utilization_percent"] = self._utilization[gpu]
        return values

    def _ask_the_driver(self) -> None:
        from torch import cuda

        if not self._answers or time.monotonic() - self._asked < UTILIZATION_SECONDS:
            return
        self._asked = time.monotonic()
        self._answers = False
        # There is no figure if the library is missing or the driver refuses; their errors differ.
        with suppress(Exception):
            self._utilization = {gpu: float(cuda.utilization(gpu)) for gpu in self._gpus}
            self._answers = True


def _gpus(device: str) -> list[int]:
    """Return the numbers of the GPUs that a stage's device stands for."""
    from torch import cuda

    if device == "auto":
        return list(range(cuda.device_count()))
    return [int(device.partition(":")[2] or 0)] if device.startswith("cuda") else []
