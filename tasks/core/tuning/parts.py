"""Which tensors a variant trains in blocks: names, shapes, and the parameters themselves."""

from torch import nn
from transformers import PreTrainedConfig

from tasks.core.blocks.anatomy import get_blocks, skeleton, text_config
from tasks.core.blocks.head import get_head, head_parameters, head_shapes, untie_head
from tasks.core.blocks.memory import require_recomputable
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.adapters import adapter_shapes, insert_adapter, live_adapter
from tasks.core.tuning.lora import factor_shapes, insert_lora, live_factors
from tasks.core.tuning.method import Variant

Shapes = dict[str, tuple[int, ...]]


def places(model: nn.Module, plan: Plan, variant: Variant) -> dict[int, list[nn.Module]]:
    """Original index -> the emulator's block objects it is trained in: one, or all repetitions of a frozen one."""
    blocks = get_blocks(model)
    if len(blocks) != len(plan.layout):
        raise InputError(f"this is no emulator of the plan: {len(blocks)} blocks, the plan lays out {len(plan.layout)}")
    found: dict[int, list[nn.Module]] = {}
    tuned, frozen = variant.returned_sources(plan), variant.frozen_sources(plan)
    for block, (source, is_tuned) in zip(blocks, plan.layout, strict=True):
        if source in (tuned if is_tuned else frozen):
            found.setdefault(source, []).append(block)
    return dict(sorted(found.items()))


def block_shapes(model: nn.Module, block: nn.Module, variant: Variant) -> Shapes:
    """What is trained of a block as it came, by stored name. InputError where its family lacks it."""
    if variant.method == "lora":
        return dict(factor_shapes(block, variant.lora_rank))
    if variant.method == "adapter":
        return adapter_shapes(text_config(model.config).hidden_size, variant.adapter_size)
    own = dict(block.named_parameters())
    chosen = {name: tuple(own[name].shape) for name in own if variant.method == "blocks" or _is_bias(name)}
    if not chosen:
        family = text_config(model.config).model_type
        raise InputError(
            f'tune.method = "bitfit", but the blocks of {family} ({type(block).__name__}) have no biases; choose from'
            " blocks, lora, adapter"
        )
    return chosen


def insert_parts(model: nn.Module, plan: Plan, variant: Variant) -> None:
    """Put what is trained and is not there yet into an emulator, in place. Random values are torch's global ones."""
    found = places(model, plan, variant)
    for source, [block, *repetitions] in found.items():
        block_shapes(model, block, variant)
        for each in (block, *repetitions):
            _insert(model, each, variant)
        for each in repetitions:
            _tie(each, block_parameters(block, variant), variant)
        if source not in plan.tuned:
            # The emulator shares memory of blocks that are not tuned with the model it was made from.
            for parameter in block_parameters(block, variant).values():
                parameter.data = parameter.data.clone()
    if variant.lm_head:
        untie_head(model)


def part_parameters(model: nn.Module, plan: Plan, variant: Variant) -> dict[str, nn.Parameter]:
    """What is trained of an emulator with its parts in, by stored name: `"{block}.{name}"`, `"lm_head.{name}"`."""
    named = {
        f"{source}.{name}": parameter
        for source, [block, *_] in places(model, plan, variant).items()
        for name, parameter in block_parameters(block, variant).items()
    }
    return named | (head_parameters(model) if variant.lm_head else {})


def block_parameters(block: nn.Module, variant: Variant) -> dict[str, nn.Parameter]:
    """What is trained of a block with its parts in."""
    if variant.method == "lora":
        return live_factors(block)
    if variant.method == "adapter":
        return live_adapter(block)
    return {name: own for name, own in block.named_parameters() if variant.method == "blocks" or _is_bias(name)}


def returned_shapes(model: nn.Module, plan: Plan, variant: Variant) -> Shapes:
    """What comes back to the owner of the full `model`, by stored name."""
    blocks = get_blocks(model)
    shapes = {
        f"{source}.{name}": shape
        for source in variant.returned_sources(plan)
        for name, shape in block_shapes(model, blocks[source], variant).items()
    }
    return shapes | (head_shapes(model) if variant.lm_head else {})


def require_trainable(config: PreTrainedConfig, variant: Variant, recomputing: bool = False) -> None:
    """InputError where models of this config lack what the variant trains. Takes no memory.

    recomputing: with gradient checkpointing.
    """
    model = skeleton(config)
    for block in get_blocks(model):
        block_shapes(model, block, variant)
    if variant.lm_head:
        get_head(model)
    if recomputing:
        require_recomputable(model)


def is_returned(name: str, plan: Plan) -> bool:
    """Whether a trained tensor goes back to the owner of the model; of frozen blocks it stays with the emulator."""
    index = name.partition(".")[0]
    return not index.isdigit() or int(index) in plan.tuned


def _insert(model: nn.Module, block: nn.Module, variant: Variant) -> None:
    if variant.method == "lora":
        insert_lora(block, variant)
    elif variant.method == "adapter":
        insert_adapter(block, text_config(model.config).hidden_size, variant.adapter_size)


def _tie(block: nn.Module, first: dict[str, nn.Parameter], variant: Variant) -> None:
    """Let a repetition have the first one's parameters in place of its own."""
    paths = {id(parameter): name for name, parameter in block.named_parameters()}
    for name, own in block_parameters(block, variant).items():
        path, _, leaf = paths[id(own)].rpartition(".")
        setattr(block.get_submodule(path), leaf, first[name])


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
