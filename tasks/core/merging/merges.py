"""Merges of several tunings, parameter by parameter.

Shapes: differences [n, c] of n tunings from the full model, at c parameters; results [c]. All in float64 on the CPU, in
which the difference of two float32 numbers and the sum of some are exact but for extreme ranges.
"""

import numpy as np
import torch
from torch import Tensor


def weighted_mean(differences: Tensor, weights: Tensor) -> Tensor:
    """Return the mean, with positive weights [n] (McMahan et al. 2017, arXiv 1602.05629, algorithm 1)."""
    return (weights[:, None] * differences).sum(0) / weights.sum()


def trimmed_mean(differences: Tensor, num_trimmed: int) -> Tensor:
    """Return the mean of each parameter without its `num_trimmed` largest and smallest values.

    As long as no more than `num_trimmed` tunings are dishonest, each result lies between values of honest ones (Yin et
    al. 2018, arXiv 1803.01498, definition 2). With (n - 1) // 2 it is the median, of an even number the mean of the two
    in the middle (definition 1).
    """
    count = differences.shape[0]
    assert 0 <= 2 * num_trimmed < count, "something is left"
    # Along the first axis, numpy sorts several times as fast as torch, and without the indices.
    ordered = np.sort(differences.numpy(), axis=0)
    return torch.from_numpy(ordered[num_trimmed : count - num_trimmed]).mean(0)


def trim_small(differences: Tensor, thresholds: Tensor) -> Tensor:
    """Set the changes to zero whose magnitude in float32 is less than the tuning's threshold. thresholds: [n]."""
    return torch.where(differences.float().abs() >= thresholds[:, None], differences, 0.0)


def mean_of_elected(differences: Tensor) -> Tensor:
    """Return the mean of the changes that agree with the elected sign; 0 where neither sign is elected.

    The elected sign of a parameter is that of the sum of its changes; zeros do not count (TIES-Merging, Yadav et al.
    2023, arXiv 2306.01708, algorithm 1, steps 2 and 3). differences: after step 1 (`trim_small`).
    """
    elected = differences.sum(0).sign()
    agreeing = (differences.sign() == elected) & (elected != 0)
    return torch.where(agreeing, differences, 0.0).sum(0) / agreeing.sum(0).clamp_min(1)


def clipping_factors(norms: Tensor) -> Tensor:
    """Return the factors [n] that bring each norm [n] down to the median of all; 1 for those that are not above it.

    Election by the sum of the changes lets one tuning with large values decide every sign. Clipping of norms limits
    each to the influence of an honest one (Sun et al. 2019, arXiv 1911.07963).
    """
    return (norms.quantile(0.5) / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)
