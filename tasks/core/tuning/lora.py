"""Low-rank factors of a block's linear modules (LoRA, Hu et al. 2021).

W' x = W x + (alpha / r) B A x, with A [r, in] random and B [out, r] zero at the start. Stored factors are named
`"{module}.lora_A"` and `"{module}.lora_B"`. Only this module imports peft, and only for training; merging does not
need it.
"""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core.errors import SettingError
from tasks.core.tuning.method import METHODS, TuningMethod

FACTORS = ("lora_A", "lora_B")
# The name under which peft stores this set of factors.
SET = "default"


def linear_modules(block: nn.Module) -> dict[str, nn.Module]:
    """Return the linear modules of a block by name; GPT-2's `Conv1D` is a linear module with a transposed matrix."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def factor_shapes(block: nn.Module, rank: int) -> dict[str, tuple[int, int]]:
    """Map the stored names of a block's factors to their shapes.

    Raises:
        SettingError: when the block has no linear module.
    """
    found = linear_modules(block)
    if not found:
        others = ", ".join(method for method in METHODS if method != "lora")
        raise SettingError(
            f'`method` = "lora", but {type(block).__name__} has no linear modules (only'
            f" {', '.join(sorted({type(part).__name__ for part in block.modules()}))}); choose from {others}"
        )
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in found.items():
        num_in, num_out = _sizes(module)
        shapes |= {f"{name}.lora_A": (rank, num_in), f"{name}.lora_B": (num_out, rank)}
    return shapes


def insert_lora(block: nn.Module, variant: TuningMethod) -> None:
    """Insert factors into every linear module of a block, in place, drawn from torch's global random generator."""
    from peft import LoraConfig, inject_adapter_in_model

    found = linear_modules(block)
    for kind in (nn.Linear, Conv1D):
        if names := [name for name, module in found.items() if isinstance(module, kind)]:
            config = LoraConfig(
                r=variant.lora_rank,
                lora_alpha=variant.lora_alpha,
                lora_dropout=variant.lora_dropout,
                target_modules=names,
                fan_in_fan_out=kind is Conv1D,
            )
            inject_adapter_in_model(config, block, adapter_name=SET)
            # Peft needs this attribute only on whole models, and would refuse the second kind of module because of it.
            del block.peft_config


def live_factors(block: nn.Module) -> dict[str, nn.Parameter]:
    """Return the inserted factors by their stored names."""
    ending = f".{SET}.weight"
    return {
        name.removesuffix(ending): parameter
        for name, parameter in block.named_parameters()
        if name.endswith(tuple(f".{factor}{ending}" for factor in FACTORS))
    }


def merged(block: nn.Module, state: dict[str, Tensor], variant: TuningMethod) -> dict[str, Tensor]:
    """Add a block's factors to its matrices; return parameter names and tensors, computed and stored in float32.

    state: the block's factors by their stored names.
    """
    result = {}
    for name, module in linear_modules(block).items():
        if f"{name}.lora_A" not in state:
            continue
        down, up = (state[f"{name}.{factor}"].float() for factor in FACTORS)
        change = (up @ down) * (variant.lora_alpha / variant.lora_rank)
        weight = module.get_parameter("weight").detach()
        result[f"{name}.weight"] = weight.float() + (change.T if isinstance(module, Conv1D) else change).to(
            weight.device
        )
    return result


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs."""
    shape: torch.Size = module.get_parameter("weight").shape
    return (shape[0], shape[1]) if isinstance(module, Conv1D) else (shape[1], shape[0])
