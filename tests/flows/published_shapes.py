"""The published dimensions of the models in flows/tables, as configs: their sizes without their weights."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.opt import OPTConfig
from transformers.models.qwen3 import Qwen3Config


def _opt(width: int, num_blocks: int) -> PreTrainedConfig:
    return OPTConfig(
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=num_blocks,
        num_attention_heads=32,
        vocab_size=50272,
        max_position_embeddings=2048,
        dtype="float16",
    )


# File in flows/tables: config, and the number of parameters that is published for it.
SHAPES: dict[str, tuple[Callable[[], PreTrainedConfig], int]] = {
    "opt-1.3b-table1": (lambda: _opt(2048, 24), 1_315_758_080),
    "opt-6.7b": (lambda: _opt(4096, 32), 6_658_473_984),
    "llama-2-7b": (
        lambda: LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32000,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            dtype="float16",
        ),
        6_738_415_616,
    ),
    "gpt2-xl": (
        lambda: GPT2Config(n_embd=1600, n_layer=48, n_head=25, vocab_size=50257, n_positions=1024, dtype="float32"),
        1_557_611_200,
    ),
    "qwen3-8b": (
        lambda: Qwen3Config(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            max_position_embeddings=40960,
            tie_word_embeddings=False,
            dtype="bfloat16",
        ),
        8_190_735_360,
    ),
}
ARCHITECTURES = {"opt": "OPTForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}


def write_config(name: str, folder: Path) -> Path:
    """A folder with nothing but the model's config.json."""
    config = SHAPES[name][0]()
    config.architectures = [ARCHITECTURES.get(config.model_type, "Qwen3ForCausalLM")]
    config.save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return folder
