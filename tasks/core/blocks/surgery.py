"""Model surgery: remove, repeat and replace the blocks of a causal language model.

The rest of the project changes model internals only through this module. The same module object at two depths would
write to one cache slot and give wrong logits without an error, so every position gets its own module object and shared
blocks share *tensors*. Masks, rotary embeddings and caches are chosen by position in the config, so the config is
rearranged together with the blocks.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tasks.core.blocks.locate_blocks import (
    block_config,
    final_norm,
    find_blocks,
    get_blocks,
    require_rebuildable,
    set_position,
    text_config,
)
from tasks.core.blocks.partial_passes import base_model_and_head, capture_blocks
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan

__all__ = [
    "aliased",
    "base_model_and_head",
    "block_config",
    "capture_blocks",
    "final_norm",
    "get_blocks",
    "layout",
    "load_tuned",
    "plug_in",
    "rearranged",
    "require_rebuildable",
    "tuned_parameters",
    "tuned_state",
    "with_layout",
]

Model = TypeVar("Model", bound=nn.Module)
Arrangement = Sequence[tuple[int, bool]]  # one (source, is_tuned) per position
Memo = dict[int, object]  # id of an original object -> the object that replaces it in a structural copy


def with_layout(model: Model, plan: Plan) -> Model:
    """Make the emulator of `plan` as a new model; `model` does not change. See `rearranged`.

    Raises:
        InputError: when the plan is for another number of blocks.
    """
    _require_fit(model, plan)
    return rearranged(model, plan.layout)


def rearranged(model: Model, arrangement: Arrangement) -> Model:
    """Make a new model that runs block `arrangement[i][0]` of `model` at position i.

    Tuned positions have copies of their tensors, which alone require gradients. All other tensors, including those of
    frozen copies of tuned blocks, share the memory of `model`, whatever the number of repetitions. A later `.to(dtype)`
    of the new model keeps repetitions tied and does not change `model`.
    """
    _, blocks = find_blocks(model)
    configs = _rearranged_configs(model, arrangement)
    memo = _aliases(model) | {id(old): new for old, new in configs}
    memo[id(blocks)] = _arrange(blocks, arrangement, memo)
    return copy.deepcopy(model, memo)


@contextmanager
def layout(model: Model, plan: Plan) -> Iterator[Model]:
    """Turn `model` itself into the emulator of `plan` within the context, and restore it exactly afterwards.

    Tensors outside the blocks and their `requires_grad` do not change.

    Raises:
        InputError: when the plan is for another number of blocks.
    """
    _require_fit(model, plan)
    path, blocks = find_blocks(model)
    parent, _, name = path.rpartition(".")
    stack = model.get_submodule(parent)
    configs = [(old, new) for old, new in _rearranged_configs(model, plan.layout) if old is text_config(old)]
    before = [(old, dict(vars(old))) for old, _ in configs]
    memo = _aliases(model) | {id(old): old for old, _ in configs}
    arranged = _arrange(blocks, plan.layout, memo)
    try:
        setattr(stack, name, arranged)
        for old, new in configs:
            vars(old).update(vars(new))
        yield model
    finally:
        setattr(stack, name, blocks)
        for old, attributes in before:
            vars(old).clear()
            vars(old).update(attributes)


@torch.no_grad()
def plug_in(model: Model, tuned_state: dict[str, Tensor], plan: Plan) -> Model:
    """Make the plug-in: the full model with the tuned tensors at their original positions, in its dtype and device.

    The result is a new model that shares every other tensor with `model`, which does not change.

    Raises:
        InputError: when `tuned_state` does not hold exactly the tensors that `plan` tunes in this model.
    """
    _require_fit(model, plan)
    plugged = aliased(model)
    blocks = get_blocks(plugged)
    tuned_blocks = {source: blocks[source] for source in plan.tuned}
    for module, name, tensor in _matched(tuned_blocks, tuned_state):
        parameter = module.get_parameter(name)
        path, _, leaf = name.rpartition(".")
        value = torch.empty_like(parameter).copy_(tensor)
        setattr(module.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))
    return plugged


def aliased(model: Model) -> Model:
    """Make a new model over the same tensors; replacing modules or parameters in it does not change `model`."""
    return copy.deepcopy(model, _aliases(model))


def tuned_state(emulator: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Tuned tensors of an emulator, keyed `"{original block index}.{parameter name}"` (its memory, not copies)."""
    return {
        f"{source}.{name}": parameter.detach()
        for source, block in _tuned_blocks(emulator, plan).items()
        for name, parameter in block.named_parameters()
    }


def tuned_parameters(emulator: nn.Module, plan: Plan) -> list[nn.Parameter]:
    """Parameters that a data owner trains, lowest block first."""
    return [parameter for block in _tuned_blocks(emulator, plan).values() for parameter in block.parameters()]


@torch.no_grad()
def load_tuned(emulator: nn.Module, state: dict[str, Tensor], plan: Plan) -> None:
    """Write `state` (as from `tuned_state`) into the tuned blocks of an emulator, in place.

    Raises:
        InputError: when the names or shapes do not fit.
    """
    for module, name, tensor in _matched(_tuned_blocks(emulator, plan), state):
        module.get_parameter(name).copy_(tensor)


def _arrange(blocks: nn.ModuleList, arrangement: Arrangement, memo: Memo) -> nn.ModuleList:
    """Make a new block object for every position, over the tensors in `memo`, or over copied tensors when tuned."""
    tensors = {id(tensor) for tensor in [*blocks.parameters(), *blocks.buffers()]}
    own = {key: value for key, value in memo.items() if key not in tensors}
    arranged = nn.ModuleList()
    for position, (source, is_tuned) in enumerate(arrangement):
        block = copy.deepcopy(blocks[source], dict(own if is_tuned else memo))
        block.requires_grad_(is_tuned)
        set_position(block, position)
        arranged.append(block)
    return arranged


def _aliases(model: nn.Module) -> Memo:
    """Map every tensor of the model to one object over the same memory, so that copying the model copies no tensor.

    Parameters get new objects because `.to(...)` and `requires_grad_` change a parameter object in place.
    """
    parameters: Memo = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in model.parameters()}
    return parameters | {id(tensor): tensor for tensor in model.buffers()}


def _rearranged_configs(model: nn.Module, arrangement: Arrangement) -> list[tuple]:
    """Pairs (config, rearranged copy) of every config object in `model` that describes the blocks."""
    sources = [source for source, _ in arrangement]
    family = text_config(model.config).model_type
    pairs: dict[int, tuple] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if not isinstance(config, PreTrainedConfig) or id(config) in pairs:
            continue
        if text_config(config).model_type != family:
            continue
        new = block_config(config, sources)
        pairs[id(config)] = (config, new)
        pairs[id(text_config(config))] = (text_config(config), text_config(new))
    return list(pairs.values())


def emulator_blocks(model: nn.Module, plan: Plan) -> nn.ModuleList:
    """Return the blocks of an emulator, in the order of the plan's layout.

    Raises:
        InputError: when the model is not an emulator of the plan.
    """
    blocks = get_blocks(model)
    if len(blocks) != len(plan.layout):
        raise InputError(
            f"this is not an emulator of the plan: {len(blocks)} blocks, the plan lays out {len(plan.layout)}"
        )
    return blocks


def _tuned_blocks(emulator: nn.Module, plan: Plan) -> dict[int, nn.Module]:
    """Map the original index of each tuned block to the emulator's block object that is trained."""
    blocks = emulator_blocks(emulator, plan)
    return {source: blocks[position] for position, (source, is_tuned) in enumerate(plan.layout) if is_tuned}


def _matched(blocks: dict[int, nn.Module], state: dict[str, Tensor]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield (block, parameter name, tensor) for all of `state`, after checking that all of it fits."""
    shapes = {f"{i}.{name}": value.shape for i, block in blocks.items() for name, value in block.named_parameters()}
    missing, unexpected = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    wrong = sorted(key for key in shapes.keys() & state.keys() if shapes[key] != state[key].shape)
    if missing or unexpected or wrong:
        raise InputError(
            f"the tuned tensors do not fit blocks {sorted(blocks)} of this model: {len(missing)} missing "
            f"{missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    for key, tensor in state.items():
        index, _, name = key.partition(".")
        yield blocks[int(index)], name, tensor


def _require_fit(model: nn.Module, plan: Plan) -> None:
    num_blocks = len(get_blocks(model))
    if num_blocks != plan.num_blocks:
        raise InputError(f"the plan is for {plan.num_blocks} blocks, the model has {num_blocks}: make a plan for it")
