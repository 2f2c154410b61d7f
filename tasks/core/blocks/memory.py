"""Recognise out-of-memory errors, free cached memory, and save memory by gradient checkpointing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.core.errors import SettingError

# Torch's allocator for the CPU raises a plain RuntimeError; its message contains this name.
CPU_ALLOCATOR = "DefaultCPUAllocator"


def is_memory_fault(error: BaseException) -> bool:
    """Return whether a computation failed because a device or the machine ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
    )


def release() -> None:
    """Free the memory that the allocator still holds after a failed computation, before a retry with another split."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
