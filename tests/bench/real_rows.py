"""Rows of real tasks for measurements, and small models of published shapes with random weights."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from tasks.core.batching import Example
from tasks.data.resolving import resolve_task
from tasks.data.tokenize import load_examples

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MISSING = f"needs rows of real tasks and tokenizers in {DATA}"
CONTEXT = 2048


def smollm2() -> PreTrainedModel:
    """SmolLM2-135M's shape."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 50257}
    return LlamaForCausalLM(LlamaConfig(**heads, **sizes, max_position_embeddings=CONTEXT, tie_word_embeddings=True))


def opt_125m() -> PreTrainedModel:
    """OPT-125m's shape, without dropout, so that two ways to train it have the same losses."""
    return OPTForCausalLM(OPTConfig(max_position_embeddings=CONTEXT, dropout=0.0, attention_dropout=0.0))


# With the tokenizer of each.
MODELS = {"SmolLM2": (smollm2, "gpt2"), "OPT-125m": (opt_125m, "opt")}


def network(name: str) -> PreTrainedModel:
    """A model of this shape, the same at each call."""
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def training_rows(name: str, task: str, count: int) -> list[Example]:
    """The first training rows of a task, tokenised for a model of this shape."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "tokenizers" / MODELS[name][1])
    source = resolve_task({"name": task, "data": str(DATA / "tasks" / task), "num_train": count})
    return load_examples(source, "train", tokenizer, CONTEXT).rows
