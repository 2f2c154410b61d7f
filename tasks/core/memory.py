"""Telling a lack of memory from other errors."""

import torch

# What torch's allocator for the CPU says; it raises a plain RuntimeError.
CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_memory_fault(error: BaseException) -> bool:
    """Whether a computation ended because a device or the machine had no memory left for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
    )


def release() -> None:
    """Give back what the allocator keeps of a computation that failed, so that another split finds it whole."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
