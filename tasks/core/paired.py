"""Paired comparison of two variants on the same scored rows: is the mean difference more than chance?

Only rows are resampled: what another tuning seed would give is in the standard error over seeds, not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# All sign patterns of this many differences are about a million.
MAX_EXACT = 20
NUM_FLIPS = 20_000
NUM_RESAMPLES = 10_000
# Values that exist at a time while resampling.
CHUNK = 4_000_000
SEED = 0
# A sum of the same numbers in another order is the same sum.
RELATIVE_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """Mean difference over rows, positive where the first is larger.

    low, high: 95% bootstrap interval of the mean; p_value: two-sided, of the hypothesis that each row's difference is
    as likely to have the other sign; is_exact: from all sign patterns, not from a sample of them.
    """

    difference: float
    low: float
    high: float
    p_value: float
    is_exact: bool
    num_rows: int


def paired_test(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> PairedTest:
    """Compare outcomes by seed and row, each averaged over its seeds. ValueError if the rows cannot be the same."""
    mean_first, mean_second = (np.asarray(values, dtype=np.float64).mean(axis=0) for values in (first, second))
    if mean_first.shape != mean_second.shape or not mean_first.size:
        raise ValueError(f"{mean_first.size} and {mean_second.size} rows cannot be compared pair by pair")
    differences = mean_first - mean_second
    p_value, is_exact = sign_flip_p_value(differences)
    low, high = bootstrap_interval(differences)
    return PairedTest(float(differences.mean()), low, high, p_value, is_exact, len(differences))


def sign_flip_p_value(differences: Sequence[float] | np.ndarray) -> tuple[float, bool]:
    """(two-sided p-value of mean difference 0, whether it is exact).

    Under the hypothesis each difference has either sign with the same chance (Fisher 1935; Good, Permutation Tests,
    section 3.2). All patterns are looked at where that is possible, else NUM_FLIPS drawn by a fixed seed, the observed
    one counted among them (Phipson and Smyth 2010).
    """
    moved = np.asarray(differences, dtype=np.float64)
    # A row without a difference has the same sum with either sign.
    moved = moved[moved != 0]
    if not len(moved):
        return 1.0, True
    extreme = abs(moved.sum()) - RELATIVE_TOLERANCE * np.abs(moved).sum()
    if len(moved) <= MAX_EXACT:
        # The sums of all patterns, one difference after another; of each pattern and its mirror image one.
        sums = moved[:1]
        for value in moved[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= extreme).mean()), True
    generator, found, left = np.random.default_rng(SEED), 0, NUM_FLIPS
    while left:
        count = min(left, max(1, CHUNK // len(moved)))
        signs = generator.integers(0, 2, (count, len(moved)), dtype=np.int8) * 2 - 1
        found += int((np.abs(signs @ moved) >= extreme).sum())
        left -= count
    return (found + 1) / (NUM_FLIPS + 1), False


def bootstrap_interval(differences: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean, rows drawn with replacement by a fixed seed (Efron and Tibshirani, ch. 13)."""
    values = np.asarray(differences, dtype=np.float64)
    generator, means, left = np.random.default_rng(SEED), [], NUM_RESAMPLES
    while left:
        count = min(left, max(1, CHUNK // len(values)))
        means.append(values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1))
        left -= count
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm 1979, step down)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
