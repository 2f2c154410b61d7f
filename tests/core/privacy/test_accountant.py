"""The accountant against published values, another program's, and laws."""

import math

import numpy as np
import pytest

from tasks.core.privacy.accountant import ORDERS, epsilon_of, renyi_divergence

DELTA = 1e-5
# The tutorial of TensorFlow Privacy on MNIST: 60,000 rows, 256 a step, and epsilon by the conversion of 2017.
MNIST = 256 / 60_000
STEPS_OF_EPOCH = 234.375


def epsilon_of_2017(noise: float, rate: float, steps: float) -> float:
    """Mironov (2017), proposition 3."""
    return min(steps * renyi_divergence(noise, rate, order) + math.log(1 / DELTA) / (order - 1) for order in ORDERS)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "published"),
    [
        pytest.param(4.0, 0.01, 10_000, 1.26, id="Abadi et al. 2016, section 3.2"),
        pytest.param(1.3, MNIST, 15 * STEPS_OF_EPOCH, 1.19, id="MNIST, 15 epochs"),
        pytest.param(1.1, MNIST, 60 * STEPS_OF_EPOCH, 3.01, id="MNIST, 60 epochs"),
        pytest.param(0.7, MNIST, 45 * STEPS_OF_EPOCH, 7.10, id="MNIST, 45 epochs"),
    ],
)
def test_published_values_by_the_conversion_of_then(noise, rate, steps, published):
    assert epsilon_of_2017(noise, rate, steps) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "theirs", "slack"),
    [
        (4.0, 0.01, 10_000, 1e-5, 1.03549, 1.0001),
        (1.3, MNIST, 3510, 1e-5, 0.953757, 1.0001),
        (1.1, MNIST, 14_040, 1e-5, 2.594363, 1.001),
        (0.7, MNIST, 10_530, 1e-5, 6.314928, 1.01),
        (1.0, 0.1, 100, 1e-5, 7.903850, 1.01),
        (2.0, 1.0, 10, 1e-6, 8.846875, 1.01),
    ],
)
def test_epsilon_is_a_close_bound_above_that_of_googles_accountant(noise, rate, steps, delta, theirs, slack):
    """theirs: of dp-accounting 0.6.0, RdpAccountant with its fractional orders."""
    assert theirs * 0.9999 <= epsilon_of(noise, rate, steps, delta) <= theirs * slack


@pytest.mark.parametrize("order", [2, 3, 7])
def test_the_divergence_is_the_integral_that_defines_it(order):
    """Of the mixture (1 - q) N(0, s^2) + q N(1, s^2) from N(0, s^2)."""
    noise, rate = 1.3, 0.2
    points = np.linspace(-40, 60, 400_001)
    base = np.exp(-(points**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * points - 1) / (2 * noise**2))
    integral = np.trapezoid(base * ratio**order, points)
    assert renyi_divergence(noise, rate, order) == pytest.approx(math.log(integral) / (order - 1), rel=1e-6)


def test_more_noise_fewer_steps_and_smaller_samples_are_more_private():
    base = epsilon_of(1.0, 0.1, 100, DELTA)
    assert epsilon_of(1.1, 0.1, 100, DELTA) < base < epsilon_of(1.0, 0.1, 110, DELTA)
    assert base < epsilon_of(1.0, 0.11, 100, DELTA)
    assert base < epsilon_of(1.0, 0.1, 100, DELTA / 2)


def test_a_large_or_a_small_noise_is_a_number_too():
    assert 0 <= epsilon_of(1e4, 0.01, 1, DELTA) < 0.01
    assert 1e4 < epsilon_of(0.01, 0.5, 10, DELTA) < math.inf
