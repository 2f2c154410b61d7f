"""A small decoder with plain batched attention: the same function as `OPTForCausalLM`, but much faster to train here.

Shapes: B rows, T positions, H heads, d width of a head, D = H * d hidden size, V vocabulary. Both biases and both
norms of a block are OPT's; positions are learned; norms come first; the activation is ReLU; nothing is dropped out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import OPTForCausalLM

# OPT stores the embedding of position p in row p + 2.
OPT_POSITION_OFFSET = 2


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of the network; the defaults are the shipped model's (2.47 million parameters)."""

    vocabulary: int
    blocks: int = 12
    hidden: int = 128
    feed_forward: int = 512
    heads: int = 4
    positions: int = 64


def _linear(num_in: int, num_out: int, gain: float) -> nn.Linear:
    """Linear layer with zero bias and normal weights of standard deviation gain / sqrt(num_in)."""
    layer = nn.Linear(num_in, num_out)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(num_in))
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """One transformer block; its initial contribution to the residual stream is smaller the more blocks there are."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        residual_scale = 1 / math.sqrt(2 * size.blocks)
        self.num_heads = size.heads
        self.attention_norm = nn.LayerNorm(size.hidden)
        self.query_key_value = _linear(size.hidden, 3 * size.hidden, 0.5)
        self.attention_out = _linear(size.hidden, size.hidden, 0.5 * residual_scale)
        self.feed_forward_norm = nn.LayerNorm(size.hidden)
        self.up = _linear(size.hidden, size.feed_forward, 0.5)
        self.down = _linear(size.feed_forward, size.hidden, 0.7 * residual_scale)

    def forward(self, hidden_BTD: Tensor, mask_TT: Tensor) -> Tensor:
        hidden_BTD = hidden_BTD + self.attention_out(self._attend(self.attention_norm(hidden_BTD), mask_TT))
        return hidden_BTD + self.down(F.relu(self.up(self.feed_forward_norm(hidden_BTD))))

    def _attend(self, hidden_BTD: Tensor, mask_TT: Tensor) -> Tensor:
        """Causal attention as two batched products; at this size the stock kernel takes half of a training step."""
        B, T, D = hidden_BTD.shape
        H, d = self.num_heads, D // self.num_heads
        projected = self.query_key_value(hidden_BTD).view(B, T, 3, H, d)
        query, key, value = projected.permute(2, 0, 3, 1, 4).reshape(3, B * H, T, d).unbind(0)
        scores = torch.baddbmm(mask_TT, query, key.transpose(1, 2), alpha=d**-0.5)
        mixed = torch.bmm(scores.softmax(-1), value)
        return mixed.view(B, H, T, d).transpose(1, 2).reshape(B, T, D)


class Network(nn.Module):
    """Embeddings, blocks, final norm and an untied output layer without bias."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.size = size
        self.tokens = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * 0.02)
        self.head = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * 0.05)
        self.positions = nn.Parameter(torch.randn(size.positions, size.hidden) * 0.02)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.blocks))
        self.final_norm = nn.LayerNorm(size.hidden)

    def forward(self, ids_BT: Tensor, blocks: Sequence[int] | None = None) -> Tensor:
        """Logits [B, T, V]; `blocks` are the indices to run, in order (all when None)."""
        num_positions = ids_BT.shape[1]
        hidden_BTD = self.tokens[ids_BT] + self.positions[:num_positions]
        mask_TT = torch.full((num_positions, num_positions), -1e4, dtype=hidden_BTD.dtype).triu(1)
        for index in range(self.size.blocks) if blocks is None else blocks:
            hidden_BTD = self.blocks[index](hidden_BTD, mask_TT)
        return F.linear(self.final_norm(hidden_BTD), self.head)


def _copy(target: nn.Module, weight: Tensor, bias: Tensor) -> None:
    target.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})


def _copy_block(layer: Any, block: Any) -> None:
    """Copy a `Block` into an OPT decoder layer."""
    attention = layer.self_attn
    weights, biases = block.query_key_value.weight.chunk(3), block.query_key_value.bias.chunk(3)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    for target, weight, bias in zip(projections, weights, biases, strict=True):
        _copy(target, weight, bias)
    for target, source in (
        (attention.out_proj, block.attention_out),
        (layer.self_attn_layer_norm, block.attention_norm),
        (layer.final_layer_norm, block.feed_forward_norm),
        (layer.fc1, block.up),
        (layer.fc2, block.down),
    ):
        _copy(target, source.weight, source.bias)


def to_opt(network: Network, pad_id: int, end_id: int) -> "OPTForCausalLM":
    """Return the same network as a float32 `OPTForCausalLM`; its logits are equal up to rounding."""
    from transformers import OPTConfig, OPTForCausalLM

    size = network.size
    config = OPTConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        word_embed_proj_dim=size.hidden,
        num_hidden_layers=size.blocks,
        ffn_dim=size.feed_forward,
        num_attention_heads=size.heads,
        max_position_embeddings=size.positions,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=pad_id,
        bos_token_id=end_id,
        eos_token_id=end_id,
        tie_word_embeddings=False,
    )
    model = OPTForCausalLM(config)
    decoder = model.model.decoder
    decoder.embed_tokens.load_state_dict({"weight": network.tokens.detach()})
    decoder.embed_positions.weight.data[OPT_POSITION_OFFSET:] = network.positions.detach()
    model.lm_head.load_state_dict({"weight": network.head.detach()})
    _copy(decoder.final_layer_norm, network.final_norm.weight, network.final_norm.bias)
    for layer, block in zip(decoder.layers, network.blocks, strict=True):
        _copy_block(layer, block)
    return model.eval()
