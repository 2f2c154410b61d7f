"""Number formats of a tuning, and accelerate, which casts between them."""

from typing import Any

import torch

from tasks.core.tuning.trainable import Trained


def make_accelerator(device: str, precision: str) -> Any:
    """Accelerate for this tuning; it remembers the first one's device and precision for the whole process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")


def set_formats(trained: Trained, precision: str) -> None:
    """Trained tensors in float32 (bfloat16 ones lose most updates at small learning rates), frozen matrices as asked.

    Frozen vectors (norms, biases) stay float32: they cost nothing, and norms mix badly with narrower weights.
    """
    narrow = torch.bfloat16 if precision == "bfloat16" else torch.float32
    chosen = {id(parameter) for parameter in trained.parameters()}
    for parameter in trained.model.parameters():
        wide = id(parameter) in chosen or parameter.dim() < 2
        parameter.requires_grad_(id(parameter) in chosen)
        parameter.data = parameter.data.to(torch.float32 if wide else narrow)
