"""Scores of GradOT against the changes that they stand for, and the choice of the best."""

import pytest
import torch
from torch import Tensor

from tasks.core.gradot.choosing import (
    ALWAYS_KEPT,
    Linear,
    Observed,
    best_factors,
    channel_scores,
    kept_channels,
    rank_scores,
)

TOKENS, WIDTH, INNER = 40, 6, 10


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(num_in: int, num_out: int, seed: int, has_bias: bool = False) -> Linear:
    seen = Observed(normal(TOKENS, num_in, seed=seed), normal(TOKENS, num_out, seed=seed + 1))
    return Linear(normal(num_out, num_in, seed=seed + 2), normal(num_out, seed=seed + 3) if has_bias else None, seen)


def size_and_gain(module: Linear, change: Tensor) -> tuple[float, float]:
    """|G D A|_1 of a change D [out, in] of the weight, written out, and the loss that it adds, sum_t g_t . D x_t."""
    x, g = module.seen
    moved = (g.T @ g / TOKENS) @ change @ (x.T @ x / TOKENS)
    return float(moved.abs().sum()), float((g * (x @ change.T)).sum())


def combined(pairs: list[tuple[float, float]], loss_weight: float) -> Tensor:
    moved, gained = torch.tensor(pairs).T
    return moved / moved.mean() - loss_weight * gained / gained.abs().mean()


@pytest.mark.parametrize("loss_weight", [0.0, 1.0, 3.0])
def test_scores_of_singular_values_are_those_of_their_removal(loss_weight: float) -> None:
    module = linear(WIDTH, INNER, seed=0)
    left, values, right = torch.linalg.svd(module.weight, full_matrices=False)
    found = rank_scores(left, values, right, module.seen, loss_weight)
    changes = [-values[i] * torch.outer(left[:, i], right[i]) for i in range(WIDTH)]
    expected = combined([size_and_gain(module, change) for change in changes], loss_weight)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_scores_of_channels_are_those_of_their_rows_and_columns(has_bias: bool) -> None:
    into = [linear(WIDTH, INNER, seed, has_bias) for seed in (10, 20)]
    out = linear(INNER, WIDTH, seed=30, has_bias=has_bias)
    pairs = []
    for channel in range(INNER):
        total = torch.zeros(2)
        for module in into:
            weight, x = module.weight, module.seen.inputs
            if module.bias is not None:
                # A bias is a column with the input 1.
                weight, x = torch.cat([weight, module.bias[:, None]], 1), torch.cat([x, torch.ones(TOKENS, 1)], 1)
            change = torch.zeros_like(weight)
            change[channel] = -weight[channel]
            total += torch.tensor(size_and_gain(module._replace(seen=Observed(x, module.seen.gradients)), change))
        change = torch.zeros_like(out.weight)
        change[:, channel] = -out.weight[:, channel]
        total += torch.tensor(size_and_gain(out, change))
        pairs.append((float(total[0]), float(total[1])))
    expected = combined(pairs, 0.7)
    assert torch.allclose(channel_scores(into, out, 0.7), expected, rtol=1e-4, atol=1e-5)
    kept = kept_channels(into, out, 4, 0.7)
    assert kept.tolist() == sorted(expected.topk(4).indices.tolist())


def test_the_largest_singular_values_always_stay() -> None:
    module = linear(40, 60, seed=3)
    _, values, right = torch.linalg.svd(module.weight, full_matrices=False)
    # Nothing moves along the largest two, so that alone they would be the first to go.
    inputs = module.seen.inputs - module.seen.inputs @ right[:2].T @ right[:2]
    module = module._replace(seen=module.seen._replace(inputs=inputs))
    outer, inner = best_factors(module, 10, 1.0)
    assert outer.shape == (60, 10)
    assert inner.shape == (10, 40)
    kept = torch.linalg.svdvals(outer @ inner)[:10]
    always = int(ALWAYS_KEPT * len(values))
    assert torch.allclose(kept[:always], values[:always], rtol=1e-4)


def test_the_choice_differs_from_that_of_the_largest_values() -> None:
    module = linear(40, 60, seed=5)
    outer, inner = best_factors(module, 10, 0.0)
    left, values, right = torch.linalg.svd(module.weight, full_matrices=False)
    scores = rank_scores(left, values, right, module.seen, 0.0)
    scores[:2] = torch.inf
    chosen = scores.topk(10).indices
    assert set(chosen.tolist()) != set(range(10))
    assert torch.allclose(outer @ inner, (left[:, chosen] * values[chosen]) @ right[chosen], atol=1e-4)


def test_all_of_a_weight_is_the_weight() -> None:
    module = linear(WIDTH, INNER, seed=7)
    outer, inner = best_factors(module, WIDTH, 1.0)
    assert torch.allclose(outer @ inner, module.weight, atol=1e-5)
