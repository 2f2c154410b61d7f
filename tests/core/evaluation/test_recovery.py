"""Recovery of a model and its capability: shares on numbers made by hand."""

import math

import pytest

from tasks.core.errors import InputError
from tasks.core.evaluation.comparison import Score, compare
from tasks.core.evaluation.recovery import capability, recovery_share

VOCABULARY = 1000
GUESSING = math.log(VOCABULARY)


def test_guessing_is_none_and_the_full_model_is_all() -> None:
    assert recovery_share(GUESSING, 2.0, VOCABULARY) == 0.0
    assert recovery_share(2.0, 2.0, VOCABULARY) == 1.0
    assert recovery_share((GUESSING + 2.0) / 2, 2.0, VOCABULARY) == pytest.approx(0.5)


def test_worse_than_guessing_is_below_zero_and_better_than_the_model_above_one() -> None:
    # ln V = 12: (12 - 13) / (12 - 2) and (12 - 1) / (12 - 2).
    vocabulary = round(math.e**12)
    assert recovery_share(13.0, 2.0, vocabulary) == pytest.approx(-0.1, abs=1e-5)
    assert recovery_share(1.0, 2.0, vocabulary) == pytest.approx(1.1, abs=1e-5)


@pytest.mark.parametrize("full_loss", [GUESSING, GUESSING + 1, math.nan])
def test_of_a_model_that_guesses_nothing_can_come_back(full_loss: float) -> None:
    with pytest.raises(InputError, match=f"not below the {GUESSING:.4f} of guessing"):
        recovery_share(3.0, full_loss, VOCABULARY)


def test_capability_is_one_for_the_full_model_whatever_the_metric() -> None:
    assert capability(0.3, 0.6, higher_is_better=True) == pytest.approx(0.5)
    # A perplexity of twice the full model's.
    assert capability(40.0, 20.0, higher_is_better=False) == pytest.approx(0.5)
    assert capability(7.0, 7.0, True) == capability(7.0, 7.0, False) == 1.0
    assert capability(0.3, 0.0, True) is None


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_capability_is_the_cpl_of_a_run(higher_is_better: bool) -> None:
    full, emulator = Score(0.8), Score(0.3)
    found = compare("metric", higher_is_better, full, [], {"crash": (emulator, [emulator], [full])})
    assert found.strategies[0].cpl is not None
    assert found.strategies[0].cpl.value == capability(emulator.value, full.value, higher_is_better)
