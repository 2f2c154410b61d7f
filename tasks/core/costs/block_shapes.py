"""Sizes of one block: its parameters, the elements that multiply a token, and the activations kept of a token.

Blocks of one model may differ: the first of a mixture of experts is often dense. All experts of a mixture are held in
memory, but a token is multiplied only with those that the router chooses and with the shared ones.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from tasks.core.blocks.factored import LinearShape, linear_shapes
from tasks.core.blocks.feed_forward import Channels, channel_candidates
from tasks.core.costs.operations import Operations
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.parts import block_parameters

# The settings in which families store the width of the feed-forward part; without any it is four times the width.
HIDDEN_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")


@dataclass(frozen=True)
class BlockShape:
    """Sizes of one block, in numbers of elements.

    matrices, vectors: parameters with two or more dimensions, and with one; multiplied: elements with which a token is
    multiplied; experts: parameters of the experts, which are part of the matrices; linears: dimensions (in, out) of the
    linear modules; around: which of them lead to or from the channels of the feed-forward part, where these can be
    removed; num_channels: number of these channels; channel_biases: of the modules that lead to them, those with a
    bias; biases: elements of the vectors that BitFit trains. attention_width, key_width: heads times head
    size, of queries (averaged with values) and of keys. hidden_width: width inside the feed-forward part, summed over
    all experts of a token; is_gated: whether two matrices lead into it; gathered: elements of the copies of a token
    that go to experts. normed: elements of one token that enter the block's norms; has_layer_norms: whether these are
    layer norms, not RMS norms; activation_copies: number of tensors that the activation keeps for its gradient.
    """

    matrices: int
    vectors: int
    multiplied: int
    experts: int
    linears: tuple[tuple[int, int], ...]
    around: tuple[bool, ...]
    num_channels: int
    channel_biases: int
    biases: int
    attention_width: int
    key_width: int
    hidden_width: int
    gathered: int
    is_gated: bool
    normed: int
    has_layer_norms: bool
    activation_copies: int

    @property
    def parameters(self) -> int:
        """Number of parameters of the block."""
        return self.matrices + self.vectors

    @property
    def sides(self) -> int:
        """Sum of the rows and columns of all its linear modules."""
        return sum(map(sum, self.linears))


def block_shape(block: nn.Module, text: Any, counted: Operations) -> BlockShape:
    """Compute the sizes of a block. text: the config of its model; counted: the block's operations."""
    sizes = [parameter.shape for parameter in block.parameters()]
    matrices = sum(size.numel() for size in sizes if len(size) > 1)
    width, heads = text.hidden_size, getattr(text, "num_attention_heads", None) or 1
    head_size = getattr(text, "head_dim", None) or width // heads
    query, key = heads * head_size, (getattr(text, "num_key_value_heads", None) or heads) * head_size
    if counted.columns != query:
        # Keys of other kinds (latent keys, for example) are as wide as queries when they are multiplied.
        query = key = counted.columns
    linears = linear_shapes(block)
    channels = next(iter(channel_candidates(block, width)), Channels((), "", 0))
    experts = _experts(block, width)
    inside = _feed_forward(block, linears, width, experts, counted.multiplied)
    if inside is None:
        hidden = _hidden_width(text, width)
        inside = hidden, matrices - width * (2 * query + 2 * key) > 2.5 * width * hidden, 0
    norms = [(name, module) for name, module in block.named_modules() if "Norm" in type(module).__name__]
    return BlockShape(
        matrices=matrices,
        vectors=sum(size.numel() for size in sizes if len(size) == 1),
        multiplied=counted.multiplied,
        experts=sum(size.numel() for size in experts.values()),
        linears=tuple((each.num_in, each.num_out) for each in linears.values()),
        around=tuple(path in channels.paths for path in linears),
        num_channels=channels.num_channels,
        channel_biases=sum(getattr(block.get_submodule(path), "bias", None) is not None for path in channels.into),
        biases=sum(bias.numel() for bias in block_parameters(block, TuningMethod("bitfit")).values()),
        attention_width=query,
        key_width=key,
        hidden_width=inside[0],
        is_gated=inside[1],
        gathered=inside[2],
        normed=sum(_normed(name, module, width, query, key) for name, module in norms),
        has_layer_norms=any(isinstance(module, nn.LayerNorm) for _, module in norms),
        activation_copies=_kept(text),
    )


def experts_of(block: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the experts between which the router chooses, by name: [experts, ...]."""
    return {
        name: parameter
        for name, parameter in block.named_parameters()
        if "experts" in name and "shared" not in name and parameter.dim() > 1
    }


def _experts(block: nn.Module, width: int) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in experts_of(block).items()}


def _feed_forward(
    block: nn.Module, linears: dict[str, LinearShape], width: int, experts: dict[str, torch.Size], multiplied: int
) -> tuple[int, bool, int] | None:
    """Return (hidden width, is gated, gathered) of a mixture of experts; None for a block without experts."""
    products = [size for size in experts.values() if len(size) == 3]
    if not products:
        return None
    num_experts, one = products[0][0], sum(size.numel() // size[0] for size in products)
    inner = min(size.numel() // size[0] // width for size in products)
    beside = sum(
        parameter.numel()
        for name, parameter in block.named_parameters()
        if parameter.dim() == 2 and name not in experts
    )
    num_run = min(num_experts, max(1, round((multiplied - beside) / one)))
    # Shared experts are the linear modules whose output has the model's width and that are not part of the attention.
    shared = sum(
        shape.num_in for path, shape in linears.items() if shape.num_out == width and "att" not in path.lower()
    )
    return num_run * inner + shared, one > 2.5 * width * inner, num_run * width


def _hidden_width(text: Any, width: int) -> int:
    found = next((value for name in HIDDEN_KEYS if (value := getattr(text, name, None))), 4 * width)
    # Some families have one for each block.
    return max(found) if isinstance(found, list | tuple) else found


def _normed(name: str, norm: nn.Module, width: int, query: int, key: int) -> int:
    """Number of elements of one token that enter a norm; a norm of the size of a head runs once for each head."""
    size = sum(parameter.numel() for parameter in norm.parameters(recurse=False) if parameter.dim() == 1)
    if isinstance(norm, nn.LayerNorm) or size == width:
        return width
    return query if name.endswith("q_norm") else key if name.endswith("k_norm") else size


def _kept(config: Any) -> int:
    """Count the tensors of the size of its input that an activation keeps, by running it on a few numbers."""
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
