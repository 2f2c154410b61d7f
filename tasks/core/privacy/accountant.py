"""Differential privacy of a tuning by DP-SGD: epsilon of all its steps together (Rényi DP of the sampled Gaussian).

Two sets of rows are neighbours when one has one row more than the other. Each step samples every row independently with
the same probability, sums gradients of bounded norm, and adds Gaussian noise (Abadi et al. 2016).

Orders are whole numbers, for which the divergence is a finite sum. Every order gives a bound that holds, so that this
one holds too: below an epsilon of 3 it is the one with fractional orders to three digits, at 8 about 1% larger.
"""

import math
from collections.abc import Iterable

# Larger orders count where noise is large and steps are few.
ORDERS = (*range(2, 65), *range(72, 257, 8), 320, 384, 448, 512, 768, 1024)


def renyi_divergence(noise: float, sampling_rate: float, order: int) -> float:
    """Return the Rényi divergence of one step in nats (Mironov, Talwar and Zhang 2019, section 3.3, whole orders).

    noise: standard deviation of the noise divided by the largest norm of a row's gradient, larger than 0;
    sampling_rate: probability of each row, in (0, 1]; order: 2 or larger.
    """
    assert noise > 0
    assert 0 < sampling_rate <= 1
    if sampling_rate == 1:
        return order / (2 * noise**2)
    terms = (
        _log_binomial(order, number)
        + (order - number) * math.log1p(-sampling_rate)
        + number * math.log(sampling_rate)
        + number * (number - 1) / (2 * noise**2)
        for number in range(order + 1)
    )
    return _log_sum_exp(terms) / (order - 1)


def epsilon_of(noise: float, sampling_rate: float, num_steps: int, delta: float) -> float:
    """Return the epsilon for which all steps together are (epsilon, delta)-differentially private.

    The conversion is that of Canonne, Kamath and Steinke (2020), proposition 12. noise, sampling_rate: as
    `renyi_divergence`; delta: in (0, 1).
    """
    assert 0 < delta < 1
    found = (
        num_steps * renyi_divergence(noise, sampling_rate, order)
        + math.log1p(-1 / order)
        - (math.log(delta) + math.log(order)) / (order - 1)
        for order in ORDERS
    )
    return max(0.0, min(found))


def _log_binomial(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _log_sum_exp(values: Iterable[float]) -> float:
    terms = list(values)
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
