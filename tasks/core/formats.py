"""Number formats of a tuning, and accelerate, which casts between them."""

from typing import Any

import torch
from torch import nn

from tasks.core.blocks import tuned_parameters
from tasks.core.plan import Plan


def make_accelerator(device: str, precision: str) -> Any:
    """Accelerate for this tuning; it remembers the first one's device and precision for the whole process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")


def set_formats(model: nn.Module, plan: Plan, precision: str) -> None:
    """Tuned tensors in float32 (bfloat16 ones lose most updates at small learning rates), frozen matrices as asked.

    Frozen vectors (norms, biases) stay float32: they cost nothing, and norms mix badly with narrower weights.
    """
    narrow = torch.bfloat16 if precision == "bfloat16" else torch.float32
    tuned = {id(parameter) for parameter in tuned_parameters(model, plan)}
    for parameter in model.parameters():
        wide = id(parameter) in tuned or parameter.dim() < 2
        parameter.requires_grad_(id(parameter) in tuned)
        parameter.data = parameter.data.to(torch.float32 if wide else narrow)
