"""The score of guessing, and emulators that do no better."""

from collections.abc import Mapping, Sequence

from tasks.core.evaluation.comparison import Mean
from tasks.core.evaluation.scores import Scores

# Standard errors by which a score has to be better than that of guessing.
ERRORS = 2.0


def guessing(num_choices: Sequence[int]) -> float:
    """Return the accuracy of guessing, from the number of choices of each row."""
    return sum(1 / count for count in num_choices) / len(num_choices)


def is_at_chance(score: Mean | Scores, chance: float, higher_is_better: bool) -> bool:
    """Return whether a score is not better than `chance` by more than two of its standard errors over rows."""
    lead = score.value - chance if higher_is_better else chance - score.value
    return lead <= ERRORS * (score.stderr or 0.0)


def chance_note(emulators: Mapping[str, Mean | Scores], chance: float | None, higher_is_better: bool) -> str:
    """Return a sentence about emulators that are at chance before tuning; empty if none is.

    emulators: scores by name; chance: what guessing scores, None where it has no score.
    """
    if chance is None:
        return ""
    lost = {name: each.value for name, each in emulators.items() if is_at_chance(each, chance, higher_is_better)}
    if not lost:
        return ""
    named = ", ".join(f"{name} ({value:.4g})" for name, value in lost.items())
    return (
        f"Before tuning, not better than guessing ({chance:.4g}) by two standard errors: {named}. Blocks that are tuned"
        " in an emulator without much of the model's knowledge may not suit the full model: keep more blocks"
        ' (plan.num_kept), or try plan.share = "linear" or "none", or another strategy.'
    )
