"""What returned blocks must satisfy before they enter the full model, and how far they moved."""

import torch
from torch import Tensor

from tasks.core.blocks import get_blocks
from tasks.core.errors import InputError
from tasks.core.plan import Plan


def admit(state: dict[str, Tensor], model: torch.nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The tuned tensors cast to the model's number format.

    state: `"{block}.{parameter}"` to tensor. Raises InputError when a tensor is missing, unexpected, of another shape,
    or not finite after the cast (a float32 value may overflow float16).
    """
    expected = _tuned_parameters(model, plan)
    if missing := sorted(expected.keys() - state.keys()):
        raise InputError(f"tuned blocks lack {len(missing)} tensors of the plan, first {missing[0]}")
    if extra := sorted(state.keys() - expected.keys()):
        raise InputError(f"tuned blocks hold {len(extra)} tensors outside the plan, first {extra[0]}")
    admitted = {}
    for name, own in expected.items():
        if state[name].shape != own.shape:
            raise InputError(f"{name}: expected shape {tuple(own.shape)}, found {tuple(state[name].shape)}")
        admitted[name] = state[name].to(own.dtype).contiguous()
        if not admitted[name].isfinite().all():
            raise InputError(f"{name}: values are not finite in {own.dtype}; tune with a lower learning rate")
    return admitted


def distances(state: dict[str, Tensor], model: torch.nn.Module, plan: Plan) -> dict[int, float]:
    """How far each tuned block moved: norm of the difference over norm of the original, by block index."""
    moved = dict.fromkeys(plan.tuned, 0.0)
    size = dict.fromkeys(plan.tuned, 0.0)
    for name, own in _tuned_parameters(model, plan).items():
        block = int(name.partition(".")[0])
        moved[block] += float((state[name].double() - own.double()).square().sum())
        size[block] += float(own.double().square().sum())
    return {block: (moved[block] / max(size[block], 1e-300)) ** 0.5 for block in plan.tuned}


def _tuned_parameters(model: torch.nn.Module, plan: Plan) -> dict[str, Tensor]:
    blocks = get_blocks(model)
    return {
        f"{index}.{name}": parameter.detach()
        for index in plan.tuned
        for name, parameter in blocks[index].named_parameters()
    }
