"""Data types of a tuning, and accelerate, which casts between them."""

from typing import Any

import torch

from tasks.core.tuning.trainable import Trained


def make_accelerator(device: str, precision: str) -> Any:
    """Make the accelerator for this tuning, after resetting the device and precision that the process remembers."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")


def set_formats(trained: Trained, precision: str) -> None:
    """Cast trained tensors to float32 and frozen matrices to `precision`, and set which tensors require gradients.

    Trained tensors in bfloat16 would lose most updates at small learning rates. Frozen vectors (norms, biases) stay
    float32: they cost nothing, and norms work badly with narrower weights.
    """
    narrow = torch.bfloat16 if precision == "bfloat16" else torch.float32
    chosen = {id(parameter) for parameter in trained.parameters()}
    for parameter in trained.model.parameters():
        wide = id(parameter) in chosen or parameter.dim() < 2
        parameter.requires_grad_(id(parameter) in chosen)
        parameter.data = parameter.data.to(torch.float32 if wide else narrow)
