"""Whether one order agrees with another, and several orders as one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Measures of `tasks.core.evaluation.proxies`, and whether more of each is better.
PROXIES = {"gradient_cosine": 1, "kl": -1, "state_error": -1}
# Of two plans any order is perfect or reversed: nothing can be learned from it.
MIN_PLANS = 3


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of two measures over n plans, each with its two-sided p-value.

    spearman: Spearman's rho, kendall: Kendall's tau-b (ties counted); p-values as scipy gives them: of Kendall exact
    for few plans without ties, of Spearman from Student's t, which is rough below about ten plans.
    """

    num_plans: int
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Rank correlation; None for fewer than three plans, or where one of the two is the same for all of them."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)}: they belong to the same plans")
    if len(first) < MIN_PLANS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import kendalltau, spearmanr

    rho, tau = spearmanr(first, second), kendalltau(first, second)
    return Agreement(len(first), *(float(value) for value in (rho.statistic, rho.pvalue, tau.statistic, tau.pvalue)))


def mean_ranks(measures: Mapping[str, Sequence[float]]) -> list[float]:
    """Rank of each plan (1 is best), averaged over measures that are all better the higher; ties share their ranks.

    Measures of different scales are made one without weights that would have to be fitted (Borda's count).
    """
    ranked = [_ranks(values) for values in measures.values()]
    return [math.fsum(ranks) / len(ranks) for ranks in zip(*ranked, strict=True)]


def best_by_proxies(found: Sequence[Mapping[str, float]]) -> list[int]:
    """Places of the plans, the one first whose mean rank over all proxies is best; ties in the order given."""
    ranks = mean_ranks({name: [sign * each[name] for each in found] for name, sign in PROXIES.items()})
    return sorted(range(len(found)), key=lambda place: ranks[place])


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the highest value; equal ones get the mean of their places."""
    return [
        1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
