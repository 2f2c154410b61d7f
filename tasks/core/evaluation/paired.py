"""Whether one variant is better than another on the same rows: paired tests that assume no distribution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Enough that a p-value of 0.001 is known to about a third of itself; more changes no verdict.
NUM_RESAMPLES = 9999
# So many differences are drawn at once that a data set of ten thousand rows takes some megabytes.
BATCH = 500


@dataclass(frozen=True)
class Paired:
    """Mean difference over rows (first minus second), its 95% confidence interval, and the two-sided p-value."""

    num_rows: int
    difference: float
    low: float
    high: float
    p_value: float


def paired_test(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Paired:
    """Compare two outcomes of the same rows, such as the share of tuning seeds with which each was answered right.

    p-value: permutation test that swaps the two outcomes of a row (exact where all swaps can be tried; one of equal
    outcomes changes nothing, so that up to 13 rows that differ are few enough), after Fisher;
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
    """P-values corrected for how many they are, in their order: the chance of even one false alarm stays what it was
    for one test (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
