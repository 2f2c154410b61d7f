"""Recognise out-of-memory errors, free cached memory, and save memory by gradient checkpointing."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from tasks.core.errors import SettingError

# Torch's allocator for the CPU raises a plain RuntimeError; its message contains this name.
CPU_ALLOCATOR = "DefaultCPUAllocator"
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
# Resident memory from which on gaps are given back, as a multiple of the largest after a step that began without gaps.
MOST_GROWTH = 1.1


def is_memory_fault(error: BaseException) -> bool:
    """Return whether a computation failed because a device or the machine ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
    )


def release() -> None:
    """Free the memory that the allocator still holds after a failed computation, before a retry with another split."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Give the memory that is free between tensors on the CPU back to the system, where the C library is glibc."""
    if TRIM is not None:
        TRIM(0)


class FlatMemory:
    """Keeps the memory of a process from growing over steps whose tensors vary in size.

    Tensors of one step seldom fit into the gaps that those of another leave. To give all gaps back after every step
    would have the system clear as many pages in the next one, for 6% more time with a model of 135M parameters and 45%
    with a tiny one. They are given back when the process is a tenth larger than after the largest step that began
    without gaps.
    """

    def __init__(self, resident: Callable[[], int] = resident_bytes, give_back: Callable[[], None] = give_back) -> None:
        self._resident, self._give_back = resident, give_back
        self._largest, self._is_fresh = 0, True

    def after_step(self) -> None:
        """Give free memory back if the process is larger than after any step that began without gaps."""
        resident = self._resident()
        if self._is_fresh:
            self._largest = max(self._largest, resident)
        self._is_fresh = resident > MOST_GROWTH * self._largest
        if self._is_fresh:
            self._give_back()


def require_recomputable(model: Any) -> None:
    """Check that the model supports gradient checkpointing.

    Raises:
        SettingError: when the blocks of its family cannot be recomputed in the backward pass.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise SettingError(f"`gradient_checkpointing` = true, but {type(model).__name__} cannot run its blocks again")


@contextmanager
def recomputing(model: Any, enabled: bool) -> Iterator[None]:
    """Enable gradient checkpointing within the context: keep each block's input, recompute the rest when going back.

    The results are the same, including dropout, for a third more time (Chen et al. 2016).

    Raises:
        SettingError: as `require_recomputable`.
    """
    if not enabled:
        yield
        return
    require_recomputable(model)
    # Older releases of transformers have only the old name.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()
