"""Distribution-free paired tests of whether one variant is better than another on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Enough to estimate a p-value of 0.001 to about a third of its value; more would not change a verdict.
NUM_RESAMPLES = 9999
# Number of resamples drawn at once: a data set of ten thousand rows then takes some megabytes.
BATCH = 500


@dataclass(frozen=True)
class Paired:
    """Mean difference over rows (first minus second), its 95% confidence interval, and its two-sided p-value."""

    num_rows: int
    difference: float
    low: float
    high: float
    p_value: float


def paired_test(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Paired:
    """Compare two outcomes of the same rows, such as the share of tuning seeds with which each row was answered right.

    p-value: Fisher's permutation test that swaps the two outcomes of a row. Rows with equal outcomes are left out, as
    swapping them changes nothing; when up to 13 rows differ, all swaps are tried and the test is exact.
    interval: percentile bootstrap over rows (Efron and Tibshirani 1993, chapter 13). `seed` makes both reproducible.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    assert one.shape == other.shape
    assert one.ndim == 1
    assert len(one)
    difference = one - other
    mean = float(difference.mean())
    if not difference.any():
        return Paired(len(one), 0.0, 0.0, 0.0, 1.0)
    if len(one) < 2:
        return Paired(1, mean, mean, mean, 1.0)
    generator = np.random.Generator(np.random.PCG64(seed))
    moved = difference != 0
    p_value = _swapped(one[moved], other[moved], generator) if moved.sum() > 1 else 1.0
    if np.ptp(difference) == 0:
        return Paired(len(one), mean, mean, mean, p_value)
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=NUM_RESAMPLES, batch=BATCH, method="percentile", rng=generator
    ).confidence_interval
    return Paired(len(one), mean, float(interval.low), float(interval.high), p_value)


def _swapped(one: np.ndarray, other: np.ndarray, generator: np.random.Generator) -> float:
    test = stats.permutation_test(
        (one, other),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=BATCH,
        rng=generator,
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in their order: the chance of at least one false positive stays that of one
    test (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
