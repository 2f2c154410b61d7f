"""Comparison of the five settings: means, standard errors, differences, and shares of what the full model can do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.evaluation.recovery import capability

SETTINGS = ("full_zero_shot", "full_fine_tuned", "emulator_zero_shot", "emulator_fine_tuned", "plug_in")
DIFFERENCES = ("gain", "leak", "privacy_gap")
# recovered = gain / (full fine-tuned - full zero-shot); cpl = emulator zero-shot / full zero-shot.
RATIOS = ("recovered", "cpl")
DERIVED = (*DIFFERENCES, *RATIOS)


@dataclass(frozen=True)
class Score:
    """Result of one evaluation: the metric's value, its standard error over the scored rows, and the tuning seed."""

    value: float
    stderr: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Mean:
    """Value of a setting; `error_over` says whether its standard error is over tuning "seeds" or scored "rows"."""

    value: float
    stderr: float | None
    num_seeds: int
    error_over: str


@dataclass(frozen=True)
class Strategy:
    """Settings, differences and ratios of one strategy; positive differences are better or larger.

    recovered: None without a full fine-tuning that is better than zero-shot; cpl: None where no score is above zero.
    """

    name: str
    emulator_zero_shot: Mean
    emulator_fine_tuned: Mean
    plug_in: Mean
    gain: Mean
    leak: Mean
    privacy_gap: Mean
    recovered: Mean | None
    cpl: Mean | None


@dataclass(frozen=True)
class Comparison:
    """Results of one run."""

    metric: str
    higher_is_better: bool
    full_zero_shot: Mean
    full_fine_tuned: Mean | None
    strategies: tuple[Strategy, ...]

    def rows(self) -> list[dict[str, object]]:
        """Make the table in long form: one row for each strategy and setting."""
        found = [("full", "full_zero_shot", self.full_zero_shot)]
        if self.full_fine_tuned:
            found.append(("full", "full_fine_tuned", self.full_fine_tuned))
        for strategy in self.strategies:
            found += [(strategy.name, name, getattr(strategy, name)) for name in (*SETTINGS[2:], *DERIVED)]
        return [
            {
                "strategy": name,
                "setting": setting,
                "metric": self.metric,
                "value": mean.value,
                "stderr": mean.stderr,
                "num_seeds": mean.num_seeds,
                "error_over": mean.error_over,
            }
            for name, setting, mean in found
            if mean is not None
        ]


def mean_score(scores: Sequence[Score]) -> Mean:
    """Mean and standard error over tuning seeds; a single score keeps its standard error over rows."""
    values = [score.value for score in scores]
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, scores[0].stderr, 1, "rows")
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Mean(mean, math.sqrt(variance / len(values)), len(values), "seeds")


def compare(
    metric: str,
    higher_is_better: bool,
    full_zero_shot: Score,
    full_fine_tuned: Sequence[Score],
    strategies: dict[str, tuple[Score, Sequence[Score], Sequence[Score]]],
) -> Comparison:
    """Compute the means of all settings and their differences.

    strategies: name to (emulator zero-shot, emulator fine-tuned by seed, plug-in by seed), the same seeds in the same
    order, so that the privacy gap is a mean of paired differences. Sources: Offsite-Tuning, section 3; CRaSh, table 1;
    cpl, the capability that an emulator keeps: LLEOT (`tasks.core.evaluation.paper_results`).
    """
    sign = 1.0 if higher_is_better else -1.0
    compared = tuple(
        Strategy(
            name=name,
            emulator_zero_shot=mean_score([zero_shot]),
            emulator_fine_tuned=mean_score(tuned),
            plug_in=mean_score(plugged),
            gain=_difference(plugged, [full_zero_shot] * len(plugged), sign),
            leak=_difference(tuned, [full_zero_shot] * len(tuned), sign),
            privacy_gap=_difference(plugged, tuned, sign),
            recovered=_recovered(plugged, full_fine_tuned, full_zero_shot, sign),
            cpl=_kept(zero_shot, full_zero_shot, higher_is_better),
        )
        for name, (zero_shot, tuned, plugged) in strategies.items()
    )
    fine_tuned = mean_score(full_fine_tuned) if full_fine_tuned else None
    return Comparison(metric, higher_is_better, mean_score([full_zero_shot]), fine_tuned, compared)


def _difference(left: Sequence[Score], right: Sequence[Score], sign: float) -> Mean:
    """Mean of the differences by seed; a single one has no standard error here, as both scores use the same rows."""
    return mean_score([Score(sign * (a.value - b.value)) for a, b in zip(left, right, strict=True)])


def _recovered(plugged: Sequence[Score], tuned: Sequence[Score], zero_shot: Score, sign: float) -> Mean | None:
    """Return gain / (full fine-tuned - full zero-shot), with its standard error over seeds by the delta method.

    Both differences are from the same zero-shot score; plug-ins and full tunings are paired by seed.
    """
    gains = [sign * (score.value - zero_shot.value) for score in plugged]
    possible = [sign * (score.value - zero_shot.value) for score in tuned]
    if not possible or math.fsum(possible) <= 0:
        return None
    ceiling = math.fsum(possible) / len(possible)
    ratio = math.fsum(gains) / len(gains) / ceiling
    # d(G / P) = (dG - ratio dP) / P, whose mean over seeds is zero.
    spread = mean_score([Score((gain - ratio * most) / ceiling) for gain, most in zip(gains, possible, strict=True)])
    return Mean(ratio, spread.stderr, len(gains), spread.error_over)


def _kept(emulator: Score, full: Score, higher_is_better: bool) -> Mean | None:
    """Return how much of the full model's zero-shot score the emulator has; both are scored on the same rows."""
    share = capability(emulator.value, full.value, higher_is_better)
    return None if share is None else Mean(share, None, 1, "rows")
