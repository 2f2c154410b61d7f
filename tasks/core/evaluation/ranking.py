"""Rank correlation of two orders of plans, and one combined order from several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The proxies of `tasks.core.evaluation.proxies`: 1 when higher is better, -1 when lower is better.
PROXIES = {"gradient_cosine": 1, "kl": -1, "state_error": -1}
# The order of two plans either agrees or is reversed, which says nothing.
MIN_PLANS = 3


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of two measures over n plans, each with its two-sided p-value.

    spearman: Spearman's rho; kendall: Kendall's tau-b (accounts for ties). The p-values come from scipy: Kendall's is
    exact for few plans without ties, Spearman's is from Student's t, which is rough below about ten plans.
    """

    num_plans: int
    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Rank correlations; None for fewer than three plans, or when one measure is the same for all plans.

    Raises:
        ValueError: when the numbers of values differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)}: they belong to the same plans")
    if len(first) < MIN_PLANS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import kendalltau, spearmanr

    rho, tau = spearmanr(first, second), kendalltau(first, second)
    return Agreement(len(first), *(float(value) for value in (rho.statistic, rho.pvalue, tau.statistic, tau.pvalue)))


def mean_ranks(measures: Mapping[str, Sequence[float]]) -> list[float]:
    """Rank of each plan (1 is best), averaged over measures for which higher is better; ties share their mean rank.

    This combines measures of different scales without weights that would have to be fitted (Borda count).
    """
    ranked = [_ranks(values) for values in measures.values()]
    return [math.fsum(ranks) / len(ranks) for ranks in zip(*ranked, strict=True)]


def best_by_proxies(found: Sequence[Mapping[str, Any]]) -> list[int]:
    """Sort the indices of the plans by their mean rank over all proxies, best first; ties keep the given order."""
    ranks = mean_ranks({name: [sign * each[name] for each in found] for name, sign in PROXIES.items()})
    return sorted(range(len(found)), key=lambda place: ranks[place])


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks of the values, 1 for the highest; equal values get their mean rank."""
    return [
        1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
