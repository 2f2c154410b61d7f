"""Find the blocks and the final norm of a decoder-only Hugging Face model, and adapt its config to rearranged blocks.

The *stack* is the module that embeds tokens, runs the blocks and applies the final norm; it is the parent of the block
list. A *source* is the index of the block that runs at a position of a rearranged model.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from tasks.core.errors import InputError

# In a family not listed here, the blocks are the one list of `num_hidden_layers` modules of the same class.
BLOCK_PATHS = {
    "opt": "model.decoder.layers",
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neo": "transformer.h",
    "bloom": "transformer.h",
    "falcon": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "jamba": "model.layers",
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2"),
        "model.layers",
    ),
}

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")

# The attributes in which attention modules (and some blocks) store their position, which is their slot in the cache.
POSITION_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")

# Lists of token ids or class names may happen to have as many entries as there are blocks.
NOT_PER_BLOCK = ("architectures", "keys_to_ignore_at_inference", "attention_types")

# Settings that list the blocks of one kind by index, and settings that give the number of dense blocks at the bottom.
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices")
DENSE_AT_BOTTOM = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")


def text_config(config: Any) -> PreTrainedConfig:
    """Return the part of `config` that describes the language model (all of it, unless the model is multimodal)."""
    return config.get_text_config(decoder=True)


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the block list of `model`; return its dotted path and the list.

    Raises:
        InputError: when the model is not decoder-only or its block list is ambiguous; the message names the lists that
            were found.
    """
    config = text_config(model.config)
    _require_decoder_only(model, config)
    num_blocks = config.num_hidden_layers
    lists = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    fitting = [
        path
        for path, blocks in lists.items()
        if len(blocks) == num_blocks and len({type(block) for block in blocks}) == 1 and not _inside(path, lists)
    ]
    known = BLOCK_PATHS.get(config.model_type)
    # When the blocks of a family are of several classes, only the path identifies the list.
    is_known = known in lists and len(lists[known]) == num_blocks
    path = known if is_known else fitting[0] if len(fitting) == 1 else None
    if path is None:
        found = ", ".join(f"{path} ({_describe(blocks)})" for path, blocks in lists.items() if not _inside(path, lists))
        raise InputError(
            f"{type(model).__name__}: cannot tell which modules are its {num_blocks} blocks. Expected exactly one list "
            f"of {num_blocks} modules of one class; found {found or 'no list of modules'}"
        )
    return path, lists[path]


def get_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's list of blocks, in order (not a copy)."""
    return find_blocks(model)[1]


def get_stack(model: nn.Module) -> nn.Module:
    """Return the stack, whose forward pass returns the last hidden states, never logits."""
    return model.get_submodule(find_blocks(model)[0].rpartition(".")[0])


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm after the last block; the identity when a family has none (OPT-350M, GPT).

    A norm with an unknown name is recognised when it is the only module with parameters declared after the blocks.

    Raises:
        InputError: when no module can be recognised as the final norm.
    """
    path, blocks = find_blocks(model)
    stack = model.get_submodule(path.rpartition(".")[0])
    for name in FINAL_NORMS:
        if hasattr(stack, name):
            return getattr(stack, name) or nn.Identity()
    children = dict(stack.named_children())
    names = list(children)
    behind = [
        child
        for name, child in children.items()
        if names.index(name) > list(children.values()).index(blocks) and any(True for _ in child.parameters())
    ]
    if all("norm" in type(child).__name__.lower() for child in behind) and len(behind) < 2:
        return behind[0] if behind else nn.Identity()
    raise InputError(
        f"{type(model).__name__}: no final norm named {' or '.join(FINAL_NORMS)} among {', '.join(names)}, nor one"
        f" norm behind its blocks"
    )


def set_position(block: nn.Module, position: int) -> None:
    """Set the position of the block and of all modules in it."""
    for module in block.modules():
        for name in POSITION_NAMES:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, position)


def block_config(config: PreTrainedConfig, sources: Sequence[int]) -> PreTrainedConfig:
    """Copy `config` for a model that runs block `sources[i]` at position i, with its depth and per-block lists adapted.

    A list is per block when it has one entry for each block, or lists blocks by index.

    Raises:
        InputError: when there are no sources, or a source is not a block of the model.
    """
    result = copy.deepcopy(config)
    text = text_config(result)
    num_blocks = text.num_hidden_layers
    if not sources or min(sources) < 0 or max(sources) >= num_blocks:
        raise InputError(f"blocks {list(sources)} asked for, but the model has blocks 0 to {num_blocks - 1}")
    for name, value in list(vars(text).items()):
        if name in INDEX_LISTS and isinstance(value, list | tuple):
            setattr(text, name, type(value)(place for place, source in enumerate(sources) if source in value))
        elif name in DENSE_AT_BOTTOM and isinstance(value, int):
            setattr(text, name, sum(source < value for source in sources))
        elif name == "moe_layer_end_index" and isinstance(value, int) and value >= 0:
            setattr(text, name, sum(source <= value for source in sources) - 1)
        elif isinstance(value, list | tuple) and len(value) == num_blocks and not _never_per_block(name):
            setattr(text, name, type(value)(value[source] for source in sources))
    if hasattr(text, "attention_types"):  # GPT-Neo stores its list a second time, run-length encoded
        text.attention_types = [[[kind], 1] for kind in text.attention_layers]
    if isinstance(pattern := getattr(text, "block_types", None), list):  # RecurrentGemma repeats it over its depth
        text.block_types = [pattern[source % len(pattern)] for source in sources]
    text.num_hidden_layers = len(sources)
    return result


def require_rebuildable(config: PreTrainedConfig, sources: Sequence[int]) -> None:
    """Check that a model built from `block_config(config, sources)` alone has the requested blocks.

    Some families derive properties from a block's depth that a rearranged config cannot express (GPT-2's
    `scale_attn_by_inverse_layer_idx`, a first dense layer of a mixture of experts). Such an emulator would load without
    an error and compute something else. Both models are built on the meta device, without memory.

    Raises:
        InputError: when a block would differ; the message names its position and the differences.
    """
    originals, rebuilt = skeleton(config), skeleton(block_config(config, sources))
    for position, (source, block) in enumerate(zip(sources, get_blocks(rebuilt), strict=True)):
        if different := _differences(get_blocks(originals)[source], block):
            raise InputError(
                f"{text_config(config).model_type}: block {source} cannot run at position {position} of a saved model, "
                f"because its config alone would build it with another {', '.join(different)}"
            )


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model that a config describes on the meta device, without memory for its tensors."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _differences(block: nn.Module, other: nn.Module) -> list[str]:
    ours, theirs = traits(block), traits(other)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def traits(block: nn.Module) -> dict[str, Any]:
    """Collect the shapes of all parameters, and every plain attribute of every module except its position."""
    traits: dict[str, Any] = {name: tuple(parameter.shape) for name, parameter in block.named_parameters()}
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, int | float | str | None) and name not in POSITION_NAMES:
                traits[f"{path}.{name}"] = value
    return traits


def _require_decoder_only(model: nn.Module, config: PreTrainedConfig) -> None:
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if encoder or getattr(config, "is_encoder_decoder", False):
        kind = "an encoder" if encoder else "an encoder-decoder"
        raise InputError(
            f"{type(model).__name__} ({config.model_type}) is {kind} model; this method needs a decoder-only language "
            f"model such as {', '.join(sorted(BLOCK_PATHS))}"
        )


def _inside(path: str, lists: dict[str, nn.ModuleList]) -> bool:
    """Return whether `path` lies inside another list (the experts of one block, for example)."""
    return any(path.startswith(f"{other}.") for other in lists)


def _describe(blocks: nn.ModuleList) -> str:
    return f"{len(blocks)} of {' and '.join(sorted({type(block).__name__ for block in blocks})) or 'nothing'}"


def _never_per_block(name: str) -> bool:
    return name.endswith(("_token_id", "_token_ids")) or name in NOT_PER_BLOCK
