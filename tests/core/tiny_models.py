"""Tiny random models of many families: 6 blocks of width 32, with different kinds of blocks where a family has them."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.bloom import BloomConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neo import GPTNeoConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.gptj import GPTJConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.olmo2 import Olmo2Config
from transformers.models.opt import OPTConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from tests.core import more_families

NUM_BLOCKS, WIDTH, VOCABULARY = 6, 32, 64
WINDOW = 4  # shorter than any test sequence, so that a wrong mask changes the logits

# No two neighbours alike, and no symmetry: a list that is sliced instead of re-mapped shows.
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
MIXED += ["sliding_attention"]

COMMON = more_families.BASE | {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": NUM_BLOCKS}
LLAMA_LIKE = COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
MIXED_WINDOWS = LLAMA_LIKE | {"sliding_window": WINDOW, "layer_types": MIXED}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "opt": lambda: OPTConfig(**COMMON, ffn_dim=48, word_embed_proj_dim=WIDTH),
    "gpt2": lambda: GPT2Config(**COMMON),
    "bloom": lambda: BloomConfig(**COMMON),
    "gpt_neox": lambda: GPTNeoXConfig(**COMMON, intermediate_size=48),
    "llama": lambda: LlamaConfig(**LLAMA_LIKE),
    "mistral": lambda: MistralConfig(**LLAMA_LIKE, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**MIXED_WINDOWS, use_sliding_window=True),
    "qwen3": lambda: Qwen3Config(**MIXED_WINDOWS, use_sliding_window=True, head_dim=8),
    "gemma2": lambda: Gemma2Config(**MIXED_WINDOWS, head_dim=8, query_pre_attn_scalar=8),
    "gemma3": lambda: Gemma3TextConfig(**MIXED_WINDOWS, head_dim=8, query_pre_attn_scalar=8),
    "phi3": lambda: Phi3Config(**LLAMA_LIKE, sliding_window=WINDOW),
    "olmo2": lambda: Olmo2Config(**LLAMA_LIKE),
    # Beyond the promised twelve: a block that returns a tuple, and a second, run-length coded list of block kinds.
    "gptj": lambda: GPTJConfig(**COMMON, rotary_dim=4),
    "gpt_neo": lambda: GPTNeoConfig(
        **{name: value for name, value in COMMON.items() if name not in ("num_hidden_layers", "num_attention_heads")},
        num_layers=NUM_BLOCKS,
        num_heads=4,
        attention_types=[[["global", "local", "local"], 2]],
        window_size=WINDOW,
    ),
}


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model in evaluation mode, of one of `FAMILIES` or of `more_families.SIZES`.

    Weights are larger than at initialisation, so that every block matters.
    """
    generator = torch.Generator().manual_seed(seed)
    config = FAMILIES[family]() if family in FAMILIES else more_families.make_config(family)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 if parameter.dim() > 1 else parameter + noise * 0.2)
    return model.eval()


def token_ids(num_rows: int = 2, length: int = 12, seed: int = 1) -> torch.Tensor:
    """Random token ids [num_rows, length] without the special tokens."""
    return torch.randint(3, VOCABULARY, (num_rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def cached_logits(model: PreTrainedModel) -> torch.Tensor:
    """[2, 12, vocabulary] of `token_ids()` after a pass with the cache, checked against one without."""
    with_cache = model(token_ids()).logits
    assert torch.equal(with_cache, model(token_ids(), use_cache=False).logits)
    return with_cache


def load_plain(folder: Path) -> PreTrainedModel:
    """A saved model as anybody loads it, without this project."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()
