"""Returned tensors of a tuning: validate them, merge them, and put them into the full model or its emulator."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from tasks.core.blocks.head import HEAD, head_parameters, head_shapes, untie_head
from tasks.core.blocks.locate_blocks import get_blocks, text_config
from tasks.core.blocks.soft_prompt import insert_prompt, prompt_parameters
from tasks.core.blocks.surgery import aliased
from tasks.core.blocks.surgery import plug_in as plug_in_blocks
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.adapters import insert_adapter, live_adapter
from tasks.core.tuning.lora import merged
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.parts import Shapes, block_shapes, returned_shapes, trained_block_copies

Model = TypeVar("Model", bound=nn.Module)
State = dict[str, Tensor]


def validate_returned(state: State, model: nn.Module, plan: Plan, variant: TuningMethod = WHOLE_BLOCKS) -> State:
    """Validate returned tensors and convert them for the plug-in, in the model's data type.

    Adapters and prompts keep theirs. state: `"{block}.{name}"`, `"lm_head.{name}"` and `"prompt.weight"` to tensor.
    Factors and biases become whole blocks, and so do tuned blocks that were not trained; `variant.admitted` describes
    the result.

    Raises:
        InputError: when a tensor is missing, unexpected, of another shape, or not finite before or after the cast (a
            float32 value may overflow float16).
    """
    _require_shapes(state, returned_shapes(model, plan, variant))
    for name, tensor in state.items():
        _require_finite(name, tensor)
    result = {name: tensor for name, tensor in state.items() if name.startswith(f"{HEAD}.")}
    if variant.method in ("adapter", "prompt"):
        result |= {name: tensor for name, tensor in state.items() if name not in result}
    else:
        result |= _whole_blocks(state, model, plan, variant)
    admitted = {}
    for name, tensor in result.items():
        admitted[name] = tensor.to(_own_dtype(name, model) or tensor.dtype).contiguous()
        _require_finite(name, admitted[name])
    return admitted


@torch.no_grad()
def plug_in_parts(model: Model, admitted: State, plan: Plan, variant: TuningMethod) -> Model:
    """Make the plug-in from the result of `validate_returned`: a new model that shares every other tensor with `model`.

    variant: the `admitted` property of the tuned variant.
    """
    if variant.method == "prompt":
        plugged = aliased(model)
        _put_prompt(plugged, admitted, variant)
        return plugged
    head, rest = _parted(admitted)
    if variant.method == "adapter":
        plugged = aliased(model)
        for source in variant.returned_sources(plan):
            _put_adapter(plugged, get_blocks(plugged)[source], _under(rest, source), variant)
    else:
        plugged = plug_in_blocks(model, rest, plan)
    _put_head(plugged, head)
    return plugged


def _parted(admitted: State) -> tuple[State, State]:
    """Return the tensors of the head, and all others."""
    head = {name: tensor for name, tensor in admitted.items() if name.startswith(f"{HEAD}.")}
    return head, {name: tensor for name, tensor in admitted.items() if name not in head}


@torch.no_grad()
def load_parts(emulator: nn.Module, state: State, plan: Plan, variant: TuningMethod) -> None:
    """Write the trained tensors of an emulator, including those of frozen blocks, into an untrained one, in place.

    Factors are merged.

    Raises:
        InputError: when names or shapes do not fit.
    """
    if variant.method == "prompt":
        _require_shapes(state, returned_shapes(emulator, plan, variant))
        _put_prompt(emulator, state, variant)
        return
    found = trained_block_copies(emulator, plan, variant)
    shapes: Shapes = {
        f"{source}.{name}": shape
        for source, [block, *_] in found.items()
        for name, shape in block_shapes(emulator, block, variant).items()
    }
    _require_shapes(state, shapes | (head_shapes(emulator) if variant.lm_head else {}))
    for source, [block, *repetitions] in found.items():
        own = _under(state, source)
        if variant.method == "adapter":
            for each in (block, *repetitions):
                _put_adapter(emulator, each, own, variant)
            continue
        # Repetitions have the same parameters.
        for name, tensor in (merged(block, own, variant) if variant.method == "lora" else own).items():
            block.get_parameter(name).copy_(tensor)
    _put_head(emulator, {name: tensor for name, tensor in state.items() if name.startswith(f"{HEAD}.")})


def distances(state: State, model: nn.Module, plan: Plan) -> dict[int, float]:
    """Relative change of each tuned block: norm of the difference divided by norm of the original, by block index.

    state: whole blocks, as from `validate_returned`.
    """
    moved = dict.fromkeys(plan.tuned, 0.0)
    size = dict.fromkeys(plan.tuned, 0.0)
    for name, own in tuned_parameters(model, plan).items():
        block = int(name.partition(".")[0])
        moved[block] += float((state[name].double() - own.double()).square().sum())
        size[block] += float(own.double().square().sum())
    return {block: (moved[block] / max(size[block], 1e-300)) ** 0.5 for block in plan.tuned}


def _whole_blocks(state: State, model: nn.Module, plan: Plan, variant: TuningMethod) -> State:
    """Return every tuned block as a whole, with the model's tensors where none were returned."""
    whole = tuned_parameters(model, plan)
    blocks = get_blocks(model)
    for source in variant.returned_sources(plan):
        own = _under(state, source)
        changed = merged(blocks[source], own, variant) if variant.method == "lora" else own
        whole |= {f"{source}.{name}": tensor for name, tensor in changed.items()}
    return whole


def _put_adapter(model: nn.Module, block: nn.Module, state: State, variant: TuningMethod) -> None:
    insert_adapter(block, text_config(model.config).hidden_size, variant.adapter_size)
    for name, parameter in live_adapter(block).items():
        parameter.copy_(state[name])
        parameter.requires_grad_(False)


def _put_prompt(model: nn.Module, state: State, variant: TuningMethod) -> None:
    # The values that it starts with are not kept.
    with torch.random.fork_rng(devices=[]):
        insert_prompt(model, variant.prompt_tokens)
    for name, parameter in prompt_parameters(model).items():
        parameter.copy_(state[name])
        parameter.requires_grad_(False)


def _put_head(model: nn.Module, state: State) -> None:
    if not state:
        return
    untie_head(model)
    for name, parameter in head_parameters(model).items():
        parameter.copy_(state[name])


def _require_shapes(state: State, expected: Shapes) -> None:
    if missing := sorted(expected.keys() - state.keys()):
        raise InputError(f"tuned blocks lack {len(missing)} tensors of the plan, first {missing[0]}")
    if extra := sorted(state.keys() - expected.keys()):
        raise InputError(f"tuned blocks hold {len(extra)} tensors outside the plan, first {extra[0]}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise InputError(f"{name}: expected shape {shape}, found {tuple(state[name].shape)}")


def _require_finite(name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise InputError(f"{name}: values are not finite in {tensor.dtype}; tune with a lower learning rate")


def _own_dtype(name: str, model: nn.Module) -> torch.dtype | None:
    """Data type of the tensor that is replaced; None when there is no such tensor yet."""
    index, _, rest = name.partition(".")
    if not index.isdigit():
        return head_parameters(model)[name].dtype if index == HEAD else None
    parameter = dict(get_blocks(model)[int(index)].named_parameters()).get(rest)
    return parameter.dtype if parameter is not None else None


def _under(state: State, source: int) -> State:
    """Return the tensors of a block, named without its index."""
    return {name.partition(".")[2]: tensor for name, tensor in state.items() if name.partition(".")[0] == str(source)}


def tuned_parameters(model: nn.Module, plan: Plan) -> State:
    """Return the parameters of a plan's tuned blocks in the full model, `"{block}.{name}"` to tensor."""
    blocks = get_blocks(model)
    return {
        f"{index}.{name}": parameter.detach()
        for index in plan.tuned
        for name, parameter in blocks[index].named_parameters()
    }
