"""GradOT's choice of singular values and channels, which keeps the gradients of the tuned blocks.

A change of a frozen weight by D moves the gradients of the tuned blocks by about H D, with H the loss's Hessian, and
the loss by about g . D. GradOT (arXiv 2507.04455) scores a change by |H D|_1 - lambda g . D and takes changes of low
scores, so that gradients stay while the loss of the emulator rises. H is Kronecker-factored: H D = G D A, with A = mean
of x x^T over the inputs of the linear module and G = mean of g g^T over the gradients at its outputs.

The paper leaves open how the two terms compare. Here each is divided by its mean size over the parts from which is
chosen, so that lambda has no unit and 1 weighs them alike. A weight's bias counts as a column with the input 1.
Shapes: W [out, in] weight, T tokens, r full rank, m channels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.core.compression.methods import halves

# Of the singular values, those that always stay, from the largest on.
ALWAYS_KEPT = 0.05


class Observed(NamedTuple):
    """Inputs x of a linear module [T, in], and gradients of the loss at its outputs [T, out]."""

    inputs: Tensor
    gradients: Tensor


class Linear(NamedTuple):
    """A linear module: its weight [out, in], its bias [out] or None, and its observed tokens."""

    weight: Tensor
    bias: Tensor | None
    seen: Observed


def best_factors(module: Linear, rank: int, loss_weight: float) -> tuple[Tensor, Tensor]:
    """Factorise a weight into (outer [out, rank], inner [rank, in]), of the singular values that GradOT keeps.

    loss_weight: lambda.
    """
    left, values, right = torch.linalg.svd(module.weight.float(), full_matrices=False)
    scores = rank_scores(left, values, right, module.seen, loss_weight)
    scores[: min(rank, math.ceil(ALWAYS_KEPT * len(values)))] = torch.inf
    chosen = scores.topk(rank).indices.sort().values
    return halves(left[:, chosen], values[chosen], right[chosen], module.weight.dtype)


def rank_scores(left: Tensor, values: Tensor, right: Tensor, seen: Observed, loss_weight: float) -> Tensor:
    """Score the removal of each part s_i u_i v_i^T of a weight, [r].

    left: u [out, r]; values: s [r]; right: v [r, in]; loss_weight: lambda.
    """
    x, g = seen.inputs @ right.T, seen.gradients @ left
    count = len(x)
    moved = values * _column_sums(seen.gradients.T @ g / count) * _column_sums(seen.inputs.T @ x / count)
    # D = -s_i u_i v_i^T
    return _combined(moved, -values * (g * x).sum(0), loss_weight)


def kept_channels(into: Sequence[Linear], out: Linear, count: int, loss_weight: float) -> Tensor:
    """Return the channels that GradOT keeps, ascending. into: modules [m, d]; out: the module [d, m] behind them."""
    scores = channel_scores(into, out, loss_weight)
    return scores.topk(count).indices.sort().values


def channel_scores(into: Sequence[Linear], out: Linear, loss_weight: float) -> Tensor:
    """Score the removal of each channel: of its row in every weight of `into`, and of its column in `out`. [m]."""
    moved, gained = (torch.zeros(out.weight.shape[1]) for _ in range(2))
    for weight, bias, (inputs, gradients) in into:
        weight, inputs = _with_bias(weight.float(), bias, inputs)
        y = inputs @ weight.T
        moved += _column_sums(gradients.T @ gradients / len(y)) * _column_sums(inputs.T @ y / len(y))
        gained -= (gradients * y).sum(0)
    x, g = out.seen.inputs, out.seen.gradients @ out.weight.float()
    moved += _column_sums(out.seen.gradients.T @ g / len(x)) * _column_sums(x.T @ x / len(x))
    return _combined(moved, gained - (g * x).sum(0), loss_weight)


def _with_bias(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> tuple[Tensor, Tensor]:
    if bias is None:
        return weight, inputs
    return torch.cat([weight, bias.float()[:, None]], 1), torch.cat([inputs, torch.ones(len(inputs), 1)], 1)


def _column_sums(matrix: Tensor) -> Tensor:
    return matrix.abs().sum(0)


def _combined(moved: Tensor, gained: Tensor, loss_weight: float) -> Tensor:
    """moved: |H D|_1 of each change; gained: its g . D, the loss that it adds."""
    tiny = torch.finfo(moved.dtype).tiny
    return moved / moved.mean().clamp_min(tiny) - loss_weight * gained / gained.abs().mean().clamp_min(tiny)
