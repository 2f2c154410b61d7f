"""Tensors that a tuning method trains: their names, shapes and parameters."""

from torch import nn
from transformers import PreTrainedConfig

from tasks.core.blocks.head import get_head, head_parameters, head_shapes, untie_head
from tasks.core.blocks.locate_blocks import get_blocks, skeleton, text_config
from tasks.core.blocks.memory import require_recomputable
from tasks.core.blocks.soft_prompt import insert_prompt, prompt_parameters, prompt_shapes
from tasks.core.blocks.surgery import emulator_blocks
from tasks.core.errors import SettingError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.adapters import adapter_shapes, insert_adapter, live_adapter
from tasks.core.tuning.lora import factor_shapes, insert_lora, live_factors
from tasks.core.tuning.method import TuningMethod

Shapes = dict[str, tuple[int, ...]]


def trained_block_copies(model: nn.Module, plan: Plan, variant: TuningMethod) -> dict[int, list[nn.Module]]:
    """Map the original index of each trained block to its block objects in the emulator.

    A tuned block has one, a frozen block one for each repetition.

    Raises:
        InputError: when the model is not an emulator of the plan.
    """
    blocks = emulator_blocks(model, plan)
    found: dict[int, list[nn.Module]] = {}
    tuned, frozen = variant.returned_sources(plan), variant.frozen_sources(plan)
    for block, (source, is_tuned) in zip(blocks, plan.layout, strict=True):
        if source in (tuned if is_tuned else frozen):
            found.setdefault(source, []).append(block)
    return dict(sorted(found.items()))


def block_shapes(model: nn.Module, block: nn.Module, variant: TuningMethod) -> Shapes:
    """Shapes of the trained tensors of a block, before any are inserted, by stored name.

    Raises:
        SettingError: when blocks of this family have no such tensors.
    """
    if variant.method == "lora":
        return dict(factor_shapes(block, variant.lora_rank))
    if variant.method == "adapter":
        return adapter_shapes(text_config(model.config).hidden_size, variant.adapter_size)
    own = dict(block.named_parameters())
    chosen = {name: tuple(own[name].shape) for name in own if variant.method == "blocks" or _is_bias(name)}
    if not chosen:
        family = text_config(model.config).model_type
        raise SettingError(
            f'`method` = "bitfit", but the blocks of {family} ({type(block).__name__}) have no biases; choose from'
            " blocks, lora, adapter"
        )
    return chosen


def insert_parts(model: nn.Module, plan: Plan, variant: TuningMethod) -> None:
    """Insert the trained tensors that an emulator lacks, in place, drawn from torch's global random generator."""
    if variant.method == "prompt":
        insert_prompt(model, variant.prompt_tokens)
    found = trained_block_copies(model, plan, variant)
    for source, [block, *repetitions] in found.items():
        block_shapes(model, block, variant)
        for each in (block, *repetitions):
            _insert(model, each, variant)
        for each in repetitions:
            _tie(each, block_parameters(block, variant), variant)
        if source not in plan.tuned:
            # The emulator shares the memory of its frozen blocks with the model from which it was made.
            for parameter in block_parameters(block, variant).values():
                parameter.data = parameter.data.clone()
    if variant.lm_head:
        untie_head(model)


def part_parameters(model: nn.Module, plan: Plan, variant: TuningMethod) -> dict[str, nn.Parameter]:
    """Trained parameters of an emulator after `insert_parts`, named `"{block}.{name}"`, `"lm_head.{name}"` and
    `"prompt.weight"`.
    """
    if variant.method == "prompt":
        return prompt_parameters(model)
    named = {
        f"{source}.{name}": parameter
        for source, [block, *_] in trained_block_copies(model, plan, variant).items()
        for name, parameter in block_parameters(block, variant).items()
    }
    return named | (head_parameters(model) if variant.lm_head else {})


def block_parameters(block: nn.Module, variant: TuningMethod) -> dict[str, nn.Parameter]:
    """Trained parameters of a block after insertion, by stored name."""
    if variant.method == "lora":
        return live_factors(block)
    if variant.method == "adapter":
        return live_adapter(block)
    return {name: own for name, own in block.named_parameters() if variant.method == "blocks" or _is_bias(name)}


def returned_shapes(model: nn.Module, plan: Plan, variant: TuningMethod) -> Shapes:
    """Shapes of the tensors that are returned to the owner of the full `model`, by stored name."""
    if variant.method == "prompt":
        return dict(prompt_shapes(model, variant.prompt_tokens))
    blocks = get_blocks(model)
    shapes = {
        f"{source}.{name}": shape
        for source in variant.returned_sources(plan)
        for name, shape in block_shapes(model, blocks[source], variant).items()
    }
    return shapes | (head_shapes(model) if variant.lm_head else {})


def require_trainable(config: PreTrainedConfig, variant: TuningMethod, recomputing: bool = False) -> None:
    """Check on the meta device that models of this config have the tensors that the method trains.

    recomputing: also check that they support gradient checkpointing.

    Raises:
        InputError: when they do not.
    """
    model = skeleton(config)
    if variant.method == "prompt":
        prompt_shapes(model, variant.prompt_tokens)
    else:
        for block in get_blocks(model):
            block_shapes(model, block, variant)
    if variant.lm_head:
        get_head(model)
    if recomputing:
        require_recomputable(model)


def is_returned(name: str, plan: Plan) -> bool:
    """Return whether a trained tensor is returned to the model owner; those of frozen blocks stay with the emulator."""
    index = name.partition(".")[0]
    return not index.isdigit() or int(index) in plan.tuned


def _insert(model: nn.Module, block: nn.Module, variant: TuningMethod) -> None:
    if variant.method == "lora":
        insert_lora(block, variant)
    elif variant.method == "adapter":
        insert_adapter(block, text_config(model.config).hidden_size, variant.adapter_size)


def _tie(block: nn.Module, first: dict[str, nn.Parameter], variant: TuningMethod) -> None:
    """Replace the parameters of a repetition by those of the first block."""
    paths = {id(parameter): name for name, parameter in block.named_parameters()}
    for name, own in block_parameters(block, variant).items():
        path, _, leaf = paths[id(own)].rpartition(".")
        setattr(block.get_submodule(path), leaf, first[name])


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
