"""The paired test against every sign pattern, against scipy, and by what must hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.core.paired import bootstrap_interval, holm, paired_test, sign_flip_p_value


def every_pattern(differences: list[float]) -> float:
    """The p-value by definition."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@given(st.lists(st.sampled_from([-1.0, -2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=9))
def test_few_rows_are_exact(differences):
    p_value, is_exact = sign_flip_p_value(differences)
    assert is_exact
    assert p_value == pytest.approx(every_pattern(differences))


def test_it_is_scipys_test_of_paired_samples():
    generator = np.random.default_rng(1)
    first, second = generator.normal(0.4, 1, 12), generator.normal(0, 1, 12)
    theirs = stats.permutation_test(
        (first, second), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p_value(first - second)[0] == pytest.approx(theirs.pvalue)


def test_many_rows_by_drawing_are_close_to_the_normal_limit():
    differences = np.random.default_rng(2).normal(0.1, 1, 400)
    p_value, is_exact = sign_flip_p_value(differences)
    z = differences.sum() / np.sqrt((differences**2).sum())
    limit = 2 * stats.norm.sf(abs(z))
    assert not is_exact
    assert p_value == pytest.approx(limit, abs=4 * np.sqrt(limit / 20_000) + 0.005)
    assert sign_flip_p_value(differences)[0] == p_value, "the same numbers again"


def test_drawn_and_exact_agree():
    differences = np.random.default_rng(3).normal(0.3, 1, 20)
    exact, is_exact = sign_flip_p_value(differences)
    drawn, is_drawn_exact = sign_flip_p_value(np.append(differences, 1e-13))
    assert (is_exact, is_drawn_exact) == (True, False)
    assert drawn == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000))


def test_the_interval_is_scipys():
    differences = np.random.default_rng(4).normal(0.2, 1, 150)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile").confidence_interval
    assert bootstrap_interval(differences) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_chance_is_refused_as_often_as_it_says():
    """Under the hypothesis a p-value of at most 5% is seen in 5% of the cases."""
    generator = np.random.default_rng(5)
    p_values = [sign_flip_p_value(generator.normal(0, 1, 12))[0] for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.085


def test_seeds_are_averaged_and_the_sign_follows_the_order():
    first, second = [[1, 1, 0, 1], [1, 0, 0, 1]], [[0, 0, 0, 1]]
    there, back = paired_test(first, second), paired_test(second, first)
    assert there.difference == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert there.p_value == back.p_value == 0.5
    assert there.num_rows == 4


def test_equal_outcomes_differ_by_nothing():
    found = paired_test([[1, 0, 1]], [[1, 0, 1]])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="3 and 2 rows"):
        paired_test([[1, 0, 1]], [[1, 0]])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p_values):
    for plain, corrected in zip(p_values, holm(p_values), strict=True):
        assert plain <= corrected <= min(1.0, len(p_values) * plain) + 1e-12
