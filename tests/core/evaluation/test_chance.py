"""Emulators that do no better than guessing are named, with their scores."""

import pytest

from tasks.core.evaluation.chance import chance_note, guessing, is_at_chance
from tasks.core.evaluation.comparison import Mean


def score(value: float, stderr: float | None) -> Mean:
    return Mean(value, stderr, 1, "rows")


def test_guessing_is_right_once_in_as_many_rows_as_there_are_choices() -> None:
    assert guessing([4, 4, 2]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("value", "stderr", "chance", "higher_is_better", "expected"),
    [
        (0.275, 0.022, 0.25, True, True),
        (0.355, 0.024, 0.25, True, False),
        (0.20, 0.01, 0.25, True, True),
        # A perplexity of the vocabulary's size is that of equal probabilities.
        (99_000.0, None, 49_152.0, False, True),
        (12.0, 0.5, 49_152.0, False, False),
        (0.5, None, 0.25, True, False),
    ],
)
def test_a_score_leads_by_more_than_two_errors(
    value: float, stderr: float | None, chance: float, higher_is_better: bool, expected: bool
) -> None:
    assert is_at_chance(score(value, stderr), chance, higher_is_better) is expected


def test_the_note_names_those_that_are_at_chance_alone() -> None:
    emulators = {"crash": score(0.275, 0.022), "uniform": score(0.355, 0.024)}
    note = chance_note(emulators, 0.25, True)
    assert "guessing (0.25)" in note
    assert "crash (0.275)" in note
    assert "uniform" not in note
    assert "plan.num_kept" in note
    assert chance_note({"uniform": emulators["uniform"]}, 0.25, True) == ""
    assert chance_note(emulators, None, True) == ""
