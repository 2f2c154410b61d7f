"""All similarities at once against the textbook way, pair by pair with centring matrices."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.core.cka import linear_cka

SHAPE = (25, 512, 2048)


def hsic(left: Tensor, right: Tensor) -> Tensor:
    """tr(K H L H) with the centring matrix H, as the formula is written."""
    centring = torch.eye(len(left)) - 1 / len(left)
    return torch.trace(left @ centring @ right @ centring)


def pairwise(states: Tensor) -> Tensor:
    """CKA of every pair by itself."""
    found = torch.empty(len(states), len(states))
    for i, left in enumerate(states):
        for j, right in enumerate(states):
            k, l = left @ left.T, right @ right.T  # noqa: E741
            found[i, j] = hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()
    return found


@pytest.mark.bench
def test_cka_of_a_whole_model(row: Callable[[str, str, str], None]) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(SHAPE, generator=generator).cumsum(0)
    linear_cka(states[:2])
    times = []
    for _ in range(10):
        began = time.perf_counter()
        ours = linear_cka(states)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    plain = pairwise(states - states.mean(1, keepdim=True))
    slow = time.perf_counter() - began
    ratio, difference = slow / min(times), float((ours - plain).abs().max())
    row("CKA of 25 x 512 x 2048, pairwise / ours", f"{slow:.1f} s / {min(times):.3f} s = {ratio:.0f}", ">= 80")
    row("  largest difference", f"{difference:.1e}", "<= 1e-5")
    assert difference <= 1e-5
    assert ratio >= 80
