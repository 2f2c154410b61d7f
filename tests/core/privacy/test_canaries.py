"""Canaries and their exposure: by hand, by guessing, and bounded by what differential privacy allows."""

import math

import numpy as np
import pytest

from tasks.core.privacy.canaries import ANSWER_TOKENS, PROMPT_TOKENS, make_canaries, measure_exposure


def test_canaries_are_random_rows_of_the_allowed_tokens():
    rows = make_canaries(200, [5, 7, 9, 11], seed=3)
    assert rows == make_canaries(200, [5, 7, 9, 11], seed=3) != make_canaries(200, [5, 7, 9, 11], seed=4)
    assert {len(row.prompt_ids) for row in rows} == {PROMPT_TOKENS}
    assert {len(row.answer_ids) for row in rows} == {ANSWER_TOKENS}
    counts = np.unique([token for row in rows for token in (*row.prompt_ids, *row.answer_ids)], return_counts=True)
    assert counts[0].tolist() == [5, 7, 9, 11]
    assert counts[1] == pytest.approx(800, rel=0.15)


def test_exposure_by_hand():
    # Above the first none of the 200 others, above the second two, above the third three, above the last all.
    found = measure_exposure([300.0, 197.5, 196.5, -1.0], [float(number) for number in range(200)])
    assert found.true_positives == 0.5
    assert found.area == pytest.approx(1 - (0 + 2 + 3 + 200) / 200 / 4)
    assert found.bits == pytest.approx(sum(math.log2(201 / rank) for rank in (1, 3, 4, 201)) / 4)


def test_equal_scores_recognise_nothing():
    found = measure_exposure([1.0] * 10, [1.0] * 1000)
    assert (found.true_positives, found.area, found.bits) == (0.0, 0.0, 0.0 + math.log2(1001 / 1001))


def test_guessing_is_what_is_said_of_it():
    generator = np.random.default_rng(0)
    found = measure_exposure(generator.normal(size=20_000), generator.normal(size=1000))
    assert found.true_positives == pytest.approx(0.01, abs=0.005)
    assert found.area == pytest.approx(0.5, abs=0.02)
    assert found.bits == pytest.approx(1.44, abs=0.05)


def test_complete_memory_has_the_largest_exposure():
    found = measure_exposure([2.0] * 5, [1.0] * 1000)
    assert (found.true_positives, found.area, found.bits) == (1.0, 1.0, math.log2(1001))
