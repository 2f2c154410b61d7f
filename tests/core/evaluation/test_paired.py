"""Paired tests against exact enumeration, and the correction against its definition."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tasks.core.evaluation.paired import holm, paired_test


def exact_p_value(difference: np.ndarray) -> float:
    """Two-sided: the share of all sign flips whose mean is at least as far from zero."""
    means = [np.mean(difference * signs) for signs in itertools.product((1, -1), repeat=len(difference))]
    return float(np.mean(np.abs(means) >= abs(difference.mean()) - 1e-12))


@pytest.mark.parametrize("seed", range(3))
def test_few_rows_are_tested_exactly(seed):
    numbers = np.random.default_rng(seed)
    one, other = numbers.integers(0, 2, 9).astype(float), numbers.integers(0, 2, 9).astype(float)
    found = paired_test(one, other)
    assert found.num_rows == 9
    assert found.difference == pytest.approx((one - other).mean())
    assert found.p_value == pytest.approx(exact_p_value(one - other), abs=1e-9)
    assert found.low <= found.difference <= found.high


def test_many_rows_agree_with_the_normal_approximation():
    from scipy import stats

    numbers = np.random.default_rng(1)
    one, other = numbers.binomial(1, 0.6, 600).astype(float), numbers.binomial(1, 0.5, 600).astype(float)
    found = paired_test(one, other)
    difference = one - other
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(difference.mean()) / error), abs=0.02)
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.02)


def test_no_difference_is_no_finding_and_the_same_seed_gives_the_same():
    assert paired_test([1, 0, 1], [1, 0, 1]).p_value == 1.0
    numbers = np.random.default_rng(2)
    one, other = numbers.random(200), numbers.random(200)
    assert paired_test(one, other) == paired_test(one, other)
    swapped = paired_test(other, one)
    assert swapped.difference == pytest.approx(-paired_test(one, other).difference)


def test_a_constant_difference_has_an_interval_of_no_width():
    found = paired_test([1.0] * 6, [0.5] * 6)
    assert (found.low, found.high) == (0.5, 0.5)
    assert found.p_value == pytest.approx(2 / 2**6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(("num_better", "num_worse"), [(1, 0), (4, 0), (5, 1), (9, 4)])
def test_few_rows_that_differ_are_exact_whatever_stays_equal(num_better, num_worse):
    """Of binary outcomes the test is the sign test, whose p-value is a sum of binomial chances."""
    first = np.r_[np.ones(num_better), np.zeros(num_worse), np.ones(200)]
    second = np.r_[np.zeros(num_better), np.ones(num_worse), np.ones(200)]
    expected = stats.binomtest(num_better, num_better + num_worse).pvalue
    assert paired_test(first, second).p_value == pytest.approx(expected)
