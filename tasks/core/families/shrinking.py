"""A small config with the structure of a given one: narrow, shallow, with every kind of block that the family has.

Flags, activations, multipliers and kinds of attention stay the same. Families name their settings differently: sizes
are recognised by their names, and a family with other names cannot be shrunk.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from tasks.core.blocks.locate_blocks import NOT_PER_BLOCK, block_config, text_config

FEWEST_BLOCKS, MOST_BLOCKS = 4, 8
WIDTH, VOCABULARY, POSITIONS = 32, 64, 64

# The first pattern that matches the whole name decides; zero and None stay, and no value grows.
SIZES: tuple[tuple[str, int], ...] = (
    (r"(vocab_size|vocab_size_per_layer_input|unpadded_vocab_size)", VOCABULARY),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length)", POSITIONS),
    (r"(qk_rope_head_dim|rotary_dim|laurel_rank)", 4),
    (r"qk_head_dim", 12),
    (r"(\w+_lora_rank|lora_rank|qk_nope_head_dim|v_head_dim|hidden_size_per_layer_input|query_pre_attn_scalar)", 8),
    (r"linear_num_key_heads", 2),
    (r"(num_experts|n_routed_experts|num_local_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok|num_experts_per_token|moe_k|moe_topk|num_kv_shared_layers)", 2),
    (r"(n_group|topk_group|num_expert_group|n_groups|mamba_n_groups|mamba_ngroups)", 1),
    (r"(mamba_n_heads|mamba_num_heads|n_mamba_heads)", 8),
    (r"(mamba_d_ssm)", 2 * WIDTH),
    (r"(mamba_dt_rank|time_step_rank|(mamba_)?chunk_size|block_size)", 4),
    (r"(state_size|ssm_state_size|mamba_d_state|mamba_d_head|mamba_head_dim|mamba_headdim|block_multiple_of)", 8),
    (r"(attn_layer_period|expert_layer_period|rescale_every)", 2),
    (r"(attn_layer_offset|expert_layer_offset)", 1),
    (r"(\w*_)?(num_key_value_heads|num_kv_heads|num_query_groups)", 2),
    (r"(\w*_)?(num_attention_heads|n_head|n_heads|num_heads|attention_heads|num_value_heads)", 4),
    (r"(\w*_)?(head_dim|head_size|dim_head|kv_channels)", 8),
    (r"attention_chunk_size", 8),
    (r"(\w*sliding_window|window_size|attention_window_size|sliding_window_size|local_attention)", 4),
    (r"(moe_intermediate_size|moe_shared_expert_intermediate_size|shared_\w*intermediate_size)", 16),
    (r"(intermediate_size|intermediate_size_mlp|\w*ffn_dim|n_inner|\w*ffn_hidden_size|dff|feed_forward_size)", 48),
    (r"(dense_intermediate_size|router_hidden_size)", 16),
    (r"(hidden_size|d_model|n_embd|attention_hidden_size|lru_width|emb_dim|embedding_dim|dim)", WIDTH),
    (r"(\w*moe_layer_end_index|image_token_index)", VOCABULARY),
)
ROPE = ("rope_parameters", "rope_scaling")
KEPT_ROPE = ("rope_theta", "partial_rotary_factor")


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """Make a small copy of a config. It may describe a model that cannot be built, so try to build it."""
    small = block_config(config, representative_blocks(config))
    for part in {id(part): part for part in _parts(small)}.values():
        _shrink(part)
    return small


def representative_blocks(config: PreTrainedConfig) -> list[int]:
    """Choose two blocks of each kind that per-block lists distinguish, four to eight in all, in order."""
    text = text_config(config)
    num_blocks = text.num_hidden_layers
    lists = [
        value
        for name, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == num_blocks and name not in NOT_PER_BLOCK
    ]
    kinds: dict[str, list[int]] = {}
    for block in range(num_blocks):
        kinds.setdefault(str([each[block] for each in lists]), []).append(block)
    chosen = {block for blocks in kinds.values() for block in blocks[:2]}
    for block in range(num_blocks):
        if len(chosen) >= FEWEST_BLOCKS:
            break
        chosen.add(block)
    return sorted(chosen)[:MOST_BLOCKS]


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield the config and all configs inside it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)


def _shrink(config: PreTrainedConfig) -> None:
    heads = getattr(config, "num_attention_heads", None)
    values = dict(vars(config))
    for name, value in values.items():
        if name in ROPE and isinstance(value, dict):
            setattr(config, name, _plain_rope(value))
        elif name.endswith("_token_id"):
            setattr(config, name, _in_vocabulary(value, name))
        elif isinstance(value, bool) or not (size := _size_of(name)):
            continue
        elif isinstance(value, int) and value > size:
            # If queries and keys have the same number of heads, they keep the same number.
            setattr(config, name, 4 if size == 2 and "key_value" in name and value == heads else size)
        elif isinstance(value, list | tuple) and value and all(isinstance(each, int) for each in value):
            setattr(config, name, type(value)(min(each, size) for each in value))

    if getattr(config, "qk_rope_head_dim", None) and getattr(config, "head_dim", None):
        config.head_dim = config.qk_rope_head_dim  # in latent attention, the size of the rotary part alone
    if hasattr(config, "state_size") and hasattr(config, "num_heads"):
        config.num_heads = config.expand * config.hidden_size // config.head_dim  # Mamba 2 requires this number


def _size_of(name: str) -> int | None:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)


def _in_vocabulary(value: Any, name: str) -> Any:
    """Special token of the small vocabulary, below the ids used in rows."""
    if value is None or name == "pad_token_id":
        return None if value is None else 0
    return 2 if name.startswith("eos") else 1


def _plain_rope(value: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings without scaling to a longer context, as the settings of scaling depend on sizes."""
    if any(isinstance(part, dict) for part in value.values()):  # one for each kind of attention
        return {kind: _plain_rope(part) if isinstance(part, dict) else part for kind, part in value.items()}
    kept = {name: value[name] for name in KEPT_ROPE if name in value}
    return copy.deepcopy({"rope_type": "default", **kept})
