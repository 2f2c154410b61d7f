"""The size of a model, read from its config alone: what the formulas of `costs` need to know."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.activations import ACT2FN

from tasks.core.anatomy import find_blocks, get_stack, text_config
from tasks.core.errors import InputError
from tasks.core.factored import linear_shapes
from tasks.core.parts import block_parameters
from tasks.core.variant import Variant

# Under which name families keep the width inside the feed-forward part; without any it is four times the width.
HIDDEN_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")
STORED_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# A config without a number format: transformers' own default.
DEFAULT_FORMAT = "float32"


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder-only model. All are numbers of elements.

    num_blocks, width: N and d. matrices, vectors: parameters of one block with two dimensions or more, and with one;
    linears: sides (in, out) of its linear modules; biases: of its vectors those that BitFit trains. attention_width,
    key_width: heads times head size, of queries and of keys. hidden_width: inside the feed-forward part, where
    `is_gated` says that two matrices lead into it. normed: elements of one token that go into a block's norms, which
    `has_layer_norms` tells from root mean square norms; activation_copies: tensors that the activation keeps for its
    gradient. outside: parameters that belong to no block; head: those multiplied for one position's logits,
    head_vectors: those added to them; around: those multiplied for each token outside the blocks (projections of narrow
    embeddings); vocabulary: logits of one position; context: tokens it takes; stored_bytes, loaded_bytes: of one
    parameter, in files and in memory.
    """

    num_blocks: int
    width: int
    matrices: int
    vectors: int
    linears: tuple[tuple[int, int], ...]
    biases: int
    attention_width: int
    key_width: int
    hidden_width: int
    is_gated: bool
    normed: int
    has_layer_norms: bool
    activation_copies: int
    outside: int
    head: int
    head_vectors: int
    around: int
    vocabulary: int
    context: int
    stored_bytes: float
    loaded_bytes: int

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return self.matrices + self.vectors

    @property
    def sides(self) -> int:
        """Rows and columns of all linear modules of one block."""
        return sum(map(sum, self.linears))

    @property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        return self.num_blocks * self.block + self.outside


def shape_of(config: PreTrainedConfig, context: int) -> Shape:
    """The shape of the model that this config describes, built without memory on the meta device.

    All blocks count as the first one. InputError for a config from which no decoder-only model can be built.
    """
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, TypeError, KeyError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"no model can be built from this config.json: {problem}") from error
    text = text_config(config)
    _, blocks = find_blocks(model)
    sizes = [parameter.shape for parameter in blocks[0].parameters()]
    inside = {id(parameter) for parameter in blocks.parameters()}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    head_parameters = model.get_output_embeddings().parameters()
    stack = [parameter for parameter in get_stack(model).modules() if isinstance(parameter, torch.nn.Linear)]
    around = {id(module.weight): module.weight.numel() for module in stack if id(module.weight) not in inside}
    around.pop(id(embedding), None)
    matrices = sum(size.numel() for size in sizes if len(size) > 1)
    width, heads = text.hidden_size, text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or width // heads
    query, key = heads * head_size, (getattr(text, "num_key_value_heads", None) or heads) * head_size
    norms = [(name, module) for name, module in blocks[0].named_modules() if "Norm" in type(module).__name__]
    hidden = next((value for name in HIDDEN_KEYS if (value := getattr(text, name, None))), 4 * width)
    return Shape(
        num_blocks=len(blocks),
        width=width,
        matrices=matrices,
        vectors=sum(size.numel() for size in sizes if len(size) == 1),
        linears=tuple((each.num_in, each.num_out) for each in linear_shapes(blocks[0]).values()),
        biases=sum(bias.numel() for bias in block_parameters(blocks[0], Variant("bitfit")).values()),
        attention_width=query,
        key_width=key,
        hidden_width=hidden,
        is_gated=matrices - width * (2 * query + 2 * key) > 2.5 * width * hidden,
        normed=sum(_normed(name, module, width, query, key) for name, module in norms),
        has_layer_norms=any(isinstance(module, torch.nn.LayerNorm) for _, module in norms),
        activation_copies=_kept(text),
        outside=sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside),
        head=head.numel(),
        head_vectors=sum(parameter.numel() for parameter in head_parameters) - head.numel(),
        around=sum(around.values()),
        vocabulary=head.shape[0],
        context=context,
        stored_bytes=STORED_BYTES[_format(config)],
        loaded_bytes=STORED_BYTES[_format(config)],
    )


def _format(config: PreTrainedConfig) -> str:
    """Name of the number format of the weights, as the config says."""
    found = str(getattr(config, "dtype", None) or DEFAULT_FORMAT).removeprefix("torch.")
    return found if found in STORED_BYTES else DEFAULT_FORMAT


def _normed(name: str, norm: torch.nn.Module, width: int, query: int, key: int) -> int:
    """Elements of one token that go into a norm; one of a head's size runs once for each head."""
    size = sum(parameter.numel() for parameter in norm.parameters(recurse=False) if parameter.dim() == 1)
    if isinstance(norm, torch.nn.LayerNorm) or size == width:
        return width
    return query if name.endswith("q_norm") else key if name.endswith("k_norm") else size


def _kept(config: PreTrainedConfig) -> int:
    """How many tensors of the size of its input an activation keeps: seen by running it on a few numbers."""
    name = next((value for key in ACTIVATION_KEYS if (value := getattr(config, key, None))), "gelu")
    kept: set[int] = set()
    values = torch.zeros(2, requires_grad=True) + 1
    tensors = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == values.numel():
            tensors.append(tensor)
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ACT2FN[name](values)
    return len(kept)
