"""Writes models as llama.cpp's converter does: its names, its order of the rows of queries and keys, its norms."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

Type = gguf.GGMLQuantizationType


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    architecture: str,
    kind: Type = Type.F32,
    tensors: dict[str, Tensor] | None = None,
    texts: dict[str, str] | None = None,
    most_tensors: int = 0,
) -> dict[str, np.ndarray]:
    """Write a model to a file, or to parts with `most_tensors` each; return what stands in it, restored, by our names.

    kind: type of the matrices whose rows are whole blocks of it; the other tensors are float32. tensors: those to
    write (the model's). texts: further settings.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=most_tensors)
    _write_settings(writer, model.config, architecture)
    _write_tokenizer(writer, tokenizer)
    # transformers loads a Qwen model with Qwen's tokenizer alone.
    ways = {"tokenizer.ggml.pre": "qwen2" if architecture.startswith("qwen") else "gpt-2"}
    for key, value in (ways | (texts or {})).items():
        writer.add_string(key, value)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    restored = {}
    for name, tensor in (tensors or dict(model.named_parameters())).items():
        values = _as_llama_cpp(name, tensor.detach(), model.config, architecture)
        whole = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        stored = gguf.quantize(values, kind if whole else Type.F32)
        restored[name] = gguf.dequantize(stored, kind if whole else Type.F32)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        writer.add_tensor(theirs, stored, raw_dtype=kind if whole else Type.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return restored


def _write_settings(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    for key, ours in GGUF_CONFIG_MAPPING[architecture].items():
        if ours == "rope_theta":
            rope = config.rope_parameters
            # Of two kinds of blocks, llama.cpp's settings have the one of full attention.
            value = rope.get("full_attention", rope)["rope_theta"]
        else:
            value = config.max_position_embeddings if key == "context_length" else getattr(config, ours or "", None)
        if isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{key}", value)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_add_bos_token(True)
    writer.add_token_types([3 if number in special else 1 for _, number in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    for name in ("bos", "eos"):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", getattr(tokenizer, f"{name}_token_id"))


def _as_llama_cpp(name: str, tensor: Tensor, config: Any, architecture: str) -> np.ndarray:
    values = tensor.float().numpy()
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        values = values + 1
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        values = values.T
    return np.ascontiguousarray(values)
