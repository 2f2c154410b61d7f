"""Telling a lack of memory from other errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.core.errors import InputError

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


def require_recomputable(model: Any) -> None:
    """InputError for a family whose blocks cannot be run again in the backward pass."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise InputError(f"tune.gradient_checkpointing = true, but {type(model).__name__} cannot run its blocks again")


@contextmanager
def recomputing(model: Any, enabled: bool) -> Iterator[None]:
    """Within the context a training pass keeps only what enters each block, and computes the rest again going back.

    The same numbers, dropout included, for a third more time (Chen et al. 2016). InputError for a family that cannot.
    """
    if not enabled:
        yield
        return
    require_recomputable(model)
    # Older releases of transformers know it under its old name only.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()
