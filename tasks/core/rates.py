"""The rate at which a device multiplies matrices, in each number format."""

import time

import torch

FORMATS = ("float32", "bfloat16")
# Tokens, width and inner width of the product: a feed-forward matrix of a small model on a CPU, of a large one on a
# GPU, where a small one would measure only its launch.
CPU_SHAPE, GPU_SHAPE = (512, 576, 1536), (4096, 4096, 14336)
SECONDS = 0.06


@torch.inference_mode()
def measure_rates(device: str) -> dict[str, float]:
    """Return the floating-point operations per second of a linear layer, by number format.

    The best of repetitions that together take less than a tenth of a second, the formats in turn, so that other work on
    the machine slows both alike. Threads are those of the process.
    """
    tokens, width, inner = CPU_SHAPE if device == "cpu" else GPU_SHAPE
    pairs = {name: _operands(name, device, tokens, width, inner) for name in FORMATS}
    for states, weight in pairs.values():
        # The first product of a format chooses its kernel.
        _seconds(states[:64], weight)
    best, begun = dict.fromkeys(FORMATS, float("inf")), time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        for name, pair in pairs.items():
            best[name] = min(best[name], _seconds(*pair))
    return {name: 2.0 * tokens * width * inner / seconds for name, seconds in best.items()}


def _operands(name: str, device: str, tokens: int, width: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    states, weight = torch.randn(tokens, width), torch.randn(inner, width)
    return states.to(device, getattr(torch, name)), weight.to(device, getattr(torch, name))


def _seconds(states: torch.Tensor, weight: torch.Tensor) -> float:
    begun = time.perf_counter()
    torch.nn.functional.linear(states, weight)
    if states.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun
