"""Configs of tiny models of further families: 4 blocks of width 32, of every kind that a family has.

Keyed by `model_type`, the name that a model folder's config.json has. Which of them can be used, and for what, is
measured by `tests.store.support_matrix`.
"""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

NUM_BLOCKS = 4
WINDOW = 4  # shorter than any test sequence, so that a wrong mask changes the logits

BASE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = BASE | {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
WITH_HEADS = LLAMA | {"head_dim": 8}

WINDOWS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# The first block is dense.
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16}
ROUTED |= {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4}
STATE_SPACE = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
STATE_SPACE |= {"mamba_chunk_size": 4}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
GEMMA_N = WINDOWS | {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}

SIZES: dict[str, dict[str, Any]] = {
    "apertus": LLAMA,
    "arcee": WITH_HEADS,
    "bamba": LLAMA | STATE_SPACE | {"attn_layer_indices": [1, 3]},
    "biogpt": BASE | {"intermediate_size": 48},
    "bitnet": LLAMA,
    "codegen": {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": NUM_BLOCKS, "n_positions": 64, "rotary_dim": 4},
    "cohere": LLAMA,
    "cohere2": LLAMA | WINDOWS,
    "ctrl": {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": NUM_BLOCKS, "n_positions": 64, "dff": 48},
    "deepseek_v2": LLAMA | LATENT | ROUTED | {"topk_method": "greedy"},
    "deepseek_v3": LLAMA | LATENT | ROUTED,
    "dots1": WITH_HEADS | ROUTED,
    "ernie4_5": WITH_HEADS,
    "ernie4_5_moe": WITH_HEADS
    | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
    "exaone4": WITH_HEADS | WINDOWS,
    "falcon": BASE,
    "falcon_h1": WITH_HEADS | STATE_SPACE | {"mamba_d_ssm": 64},
    "falcon_mamba": BASE | {"state_size": 8},
    "gemma": WITH_HEADS,
    # The language model inside a model that also sees.
    "gemma3": {"text_config": WITH_HEADS | WINDOWS | {"query_pre_attn_scalar": 8}}
    | {"vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}},
    "gemma3n_text": WITH_HEADS
    | GEMMA_N
    | {"intermediate_size": [48] * 4, "laurel_rank": 4, "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0]},
    "gemma4_text": WITH_HEADS | GEMMA_N | {"global_head_dim": 8},
    "glm": WITH_HEADS,
    "glm4": WITH_HEADS,
    "glm4_moe": WITH_HEADS | ROUTED,
    "gpt_bigcode": BASE,
    "gpt_oss": WITH_HEADS | LOCAL_EXPERTS | WINDOWS,
    "granite": LLAMA,
    "granitemoe": LLAMA | LOCAL_EXPERTS,
    "granitemoehybrid": LLAMA
    | STATE_SPACE
    | LOCAL_EXPERTS
    | {"shared_intermediate_size": 16, "layer_types": ["mamba", "attention"] * 2},
    "helium": WITH_HEADS,
    "hunyuan_v1_dense": WITH_HEADS,
    "hunyuan_v1_moe": WITH_HEADS | {"num_experts": 4, "moe_topk": 2},
    "jamba": LLAMA
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    | {"num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "lfm2": LLAMA | {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "llama4_text": WITH_HEADS
    | {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "attention_chunk_size": 8}
    | {"layer_types": ["chunked_attention", "full_attention"] * 2, "no_rope_layers": [1, 0, 1, 0]},
    "mamba": BASE | {"state_size": 8},
    "mamba2": BASE | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "minimax": WITH_HEADS | LOCAL_EXPERTS | LINEAR | {"block_size": 4},
    "ministral": WITH_HEADS | WINDOWS,
    "mixtral": LLAMA | LOCAL_EXPERTS,
    "mpt": {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": NUM_BLOCKS, "max_seq_len": 64}
    | {"expansion_ratio": 2},
    "nemotron": LLAMA,
    "olmo": LLAMA,
    "olmo3": LLAMA | WINDOWS,
    "olmoe": LLAMA | {"num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": NUM_BLOCKS, "n_positions": 64},
    "persimmon": BASE | {"intermediate_size": 48},
    "phi": LLAMA,
    "phimoe": LLAMA | LOCAL_EXPERTS,
    "qwen2_moe": LLAMA | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_5_text": WITH_HEADS | DELTA | LINEAR,
    "qwen3_moe": WITH_HEADS | EXPERTS,
    "qwen3_next": WITH_HEADS | EXPERTS | DELTA | LINEAR | {"shared_expert_intermediate_size": 16},
    "recurrent_gemma": WITH_HEADS
    | {"lru_width": 32, "attention_window_size": WINDOW, "num_key_value_heads": 1}
    | {"block_types": ["recurrent", "recurrent", "attention"]},
    "rwkv": {"vocab_size": 64, "context_length": 64, "hidden_size": 32, "num_hidden_layers": NUM_BLOCKS}
    | {"attention_hidden_size": 32, "intermediate_size": 48, "rescale_every": 2},
    "seed_oss": WITH_HEADS,
    "smollm3": LLAMA | {"no_rope_layers": [1, 0, 1, 1]},
    "stablelm": LLAMA,
    "starcoder2": LLAMA | {"sliding_window": WINDOW},
    "vaultgemma": WITH_HEADS | WINDOWS,
    "xglm": {"vocab_size": 64, "d_model": 32, "ffn_dim": 48, "num_layers": NUM_BLOCKS, "attention_heads": 4}
    | {"max_position_embeddings": 64},
}


def make_config(family: str, **changes: Any) -> PreTrainedConfig:
    """The config of a tiny model, by the family's `model_type`."""
    return AutoConfig.for_model(family, **SIZES[family] | changes)
