"""Shapes of the models of the GPU benchmark, with random weights, and what every measurement of it reports."""

import gc
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PreTrainedConfig, PreTrainedModel

from tasks.core.costs.shapes import Shape, shape_of

CONTEXT = 2048
# Dense bfloat16 peak in FLOP/s, from the vendors' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def opt(width: int, num_blocks: int, num_heads: int, vocabulary: int) -> OPTConfig:
    """An OPT of these sizes."""
    return OPTConfig(
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=num_blocks,
        num_attention_heads=num_heads,
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
    )


def llama(width: int, inner: int, num_blocks: int, heads: tuple[int, int], vocabulary: int) -> LlamaConfig:
    """A Llama 3 of these sizes. heads: of queries, and of keys and values."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=num_blocks,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )


SHAPES = {"OPT-1.3B": opt(2048, 24, 32, 50272), "Llama-3-8B": llama(4096, 14336, 32, (32, 8), 128256)}
# As many blocks, so that plans are the same, and nothing else of their size: to see that everything runs.
TINY = {"OPT-1.3B": opt(64, 24, 4, 512), "Llama-3-8B": llama(64, 128, 32, (4, 2), 512)}


@dataclass(frozen=True)
class Measured:
    """One measurement.

    rate: of `unit` per second; flops: operations of the measured part; utilisation: share of the device's peak;
    peak_memory, expected_memory: bytes, the latter by the formulas of `crash plan-cost`.
    """

    what: str
    shape: str
    rate: float
    unit: str
    flops: float = 0.0
    utilisation: float | None = None
    peak_memory: float | None = None
    expected_memory: float | None = None
    note: str = ""


def network(config: PreTrainedConfig, device: str) -> PreTrainedModel:
    """Random bfloat16 weights on a device, made there."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)


def sizes(config: PreTrainedConfig) -> Shape:
    """Sizes of the model, for the formulas of costs."""
    return shape_of(config, CONTEXT)


def peak_rate(device: str) -> float | None:
    """Dense bfloat16 peak of the device in FLOP/s, where it is known."""
    if device == "cpu":
        return None
    return next((PEAKS[kind] for kind in PEAKS if kind in torch.cuda.get_device_name()), None)


def share_of_peak(flops: float, seconds: float, device: str) -> float | None:
    """Share of the device's peak at which these operations ran."""
    peak = peak_rate(device)
    return flops / seconds / peak if peak else None


def begin_peak(device: str) -> None:
    """Free what is left of the measurement before, and count the peak of memory anew."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> float | None:
    """Peak of the GPU's memory in bytes since `begin_peak`."""
    return float(torch.cuda.max_memory_allocated()) if device != "cpu" else None


def total_memory(device: str) -> float:
    """Memory of the GPU in bytes; without one, no limit."""
    return float(torch.cuda.get_device_properties(0).total_memory) if device != "cpu" else float("inf")


def wait(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device != "cpu":
        torch.cuda.synchronize()
