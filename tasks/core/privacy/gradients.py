"""Gradients of DP-SGD: one of each row, clipped; their sum with noise (Abadi et al. 2016, algorithm 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.core.privacy.noise import NOISE, SecretNumbers


class ClippedSum:
    """The sum of gradients, each of which is scaled down to a norm of at most `largest` over all parameters.

    parameters: whose `grad` has the gradient of one row at each `add`; float32.
    """

    def __init__(self, parameters: Sequence[Tensor], largest: float) -> None:
        self._parameters, self._largest = parameters, largest
        self._sums = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def add(self) -> None:
        """Add the gradient that the parameters have now, and remove it from them."""
        pairs = [
            (parameter.grad, total)
            for parameter, total in zip(self._parameters, self._sums, strict=True)
            if parameter.grad is not None
        ]
        scale = min(1.0, self._largest / max(float(nn.utils.get_total_norm([each for each, _ in pairs])), 1e-30))
        for gradient, total in pairs:
            total.add_(gradient, alpha=scale)
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def noisy_mean(self, noise: float, expected_rows: float, key: str, step: int) -> None:
        """Give the parameters the gradient (sum + noise) / expected_rows.

        noise: standard deviation divided by the largest norm. expected_rows: the expected number of rows of a step; how
        many there were is private.
        """
        numbers = SecretNumbers(key, step, NOISE)
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if noise:
                drawn = numbers.normal(total.shape).to(total.device)
                total.add_(drawn, alpha=noise * self._largest)
            parameter.grad = total.div_(expected_rows)
