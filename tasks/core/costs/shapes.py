"""Sizes of a model for the formulas of `costs`, derived from its config alone."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits, length_limits
from tasks.core.blocks.locate_blocks import find_blocks, get_stack, text_config
from tasks.core.blocks.streaming import can_stream
from tasks.core.costs.block_shapes import BlockShape, block_shape, experts_of
from tasks.core.costs.operations import Operations, count_operations
from tasks.core.errors import InputError
from tasks.core.evaluation.prompt_trees import longest_tree
from tasks.core.evaluation.scoring_states import can_share_prompts

STORED_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# The data type of a config that names none: the default of transformers.
DEFAULT_FORMAT = "float32"
# A cache, because all cells of a sweep ask for the same model.
_known: dict[tuple[str, str, int], "Shape"] = {}


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder-only model, in numbers of elements.

    width: d; blocks: sizes of each block. outside: parameters outside the blocks; head: elements multiplied for the
    logits of one position; head_vectors: elements added to them; around: elements multiplied for each token outside the
    blocks (projections of narrow embeddings); vocabulary: logits of one position; context: maximum tokens of a row;
    stored_bytes, loaded_bytes: bytes of one parameter, in files and in memory; limits: length limits that a pass does
    not straddle; approximate: the reason why operations are approximate, empty when they are as torch counts them;
    shares_prompts: whether scoring runs a prompt once for all its choices; longest_tree: most tokens of a prompt and
    its choices in one row; streams: whether blocks can be loaded one at a time.
    """

    width: int
    blocks: tuple[BlockShape, ...]
    outside: int
    head: int
    head_vectors: int
    around: int
    vocabulary: int
    context: int
    stored_bytes: float
    loaded_bytes: int
    limits: LengthLimits = NO_LIMITS
    approximate: str = ""
    shares_prompts: bool = True
    longest_tree: int = 0
    streams: bool = True

    @property
    def num_blocks(self) -> int:
        """Number of blocks, N."""
        return len(self.blocks)

    @property
    def matrices(self) -> float:
        """Number of elements with which a token is multiplied in a block, mean over blocks."""
        return sum(block.multiplied for block in self.blocks) / self.num_blocks

    @property
    def block(self) -> float:
        """Number of parameters of a block, mean over blocks."""
        return sum(block.parameters for block in self.blocks) / self.num_blocks

    @property
    def parameters(self) -> int:
        """Number of parameters of the model; tied ones count once."""
        return sum(block.parameters for block in self.blocks) + self.outside


def shape_of(config: PreTrainedConfig, context: int) -> Shape:
    """Return the shape of the model that a config describes, built on the meta device without memory.

    Raises:
        InputError: when no decoder-only model can be built from the config, or its experts cannot be counted.
    """
    key = (type(config).__name__, config.to_json_string(use_diff=False), context)
    if key not in _known:
        _known[key] = _measured(config, context)
    return _known[key]


def _measured(config: PreTrainedConfig, context: int) -> Shape:
    model = _build(config)
    text = text_config(config)
    _, blocks = find_blocks(model)
    inside = {id(parameter) for parameter in blocks.parameters()}
    head = model.get_output_embeddings().weight
    head_parameters = model.get_output_embeddings().parameters()
    counted = count_operations(model)
    if counted is None:
        counted = _guessed(model, blocks, inside)
        approximate = "its code cannot run without memory: each matrix counts once for each token, attention by heads"
    else:
        approximate = "" if all(each.is_exact for each in counted[0]) else "it computes in chunks, which are left out"
    return Shape(
        width=text.hidden_size,
        blocks=tuple(block_shape(block, text, each) for block, each in zip(blocks, counted[0], strict=True)),
        outside=sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside),
        head=head.numel(),
        head_vectors=sum(parameter.numel() for parameter in head_parameters) - head.numel(),
        around=counted[1].multiplied,
        vocabulary=head.shape[0],
        context=context,
        stored_bytes=STORED_BYTES[_format(config)],
        loaded_bytes=STORED_BYTES[_format(config)],
        limits=length_limits(config),
        approximate=approximate,
        shares_prompts=can_share_prompts(model),
        longest_tree=longest_tree(model),
        streams=can_stream(model),
    )


def _build(config: PreTrainedConfig) -> Any:
    """Build the model on the meta device, with attention as plain products."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                copy.deepcopy(config), trust_remote_code=False, attn_implementation="eager"
            )
    except (ValueError, TypeError, KeyError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"no model can be built from this config.json: {problem}") from error


def _guessed(model: Any, blocks: nn.ModuleList, inside: set[int]) -> tuple[list[Operations], Operations]:
    """Estimate operations as most families compute: every token times every matrix.

    Raises:
        InputError: when the model has experts, as a token goes only to some of them.
    """
    text = text_config(model.config)
    if any(experts_of(block) for block in blocks):
        raise InputError(
            f"{text.model_type}: how many of its experts a token goes to cannot be counted, as its code does not run"
            " without weights; plan-cost has no price for this model"
        )
    heads = getattr(text, "num_attention_heads", None) or 1
    columns = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    found = [
        Operations(sum(own.numel() for own in block.parameters() if own.dim() > 1), columns, is_exact=False)
        for block in blocks
    ]
    linears = [module.weight for module in get_stack(model).modules() if isinstance(module, nn.Linear)]
    around = {id(weight): weight.numel() for weight in linears if id(weight) not in inside}
    return found, Operations(sum(around.values()), 0, is_exact=False)


def _format(config: PreTrainedConfig) -> str:
    """Name of the data type of the weights in the config, or the default."""
    found = str(getattr(config, "dtype", None) or DEFAULT_FORMAT).removeprefix("torch.")
    return found if found in STORED_BYTES else DEFAULT_FORMAT
