"""The frontier against its definition, and rank agreement against its own."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.evaluation.pareto import frontier
from tasks.core.evaluation.ranking import agreement, mean_ranks

POINTS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12)


@given(POINTS)
def test_the_frontier_is_what_no_weighing_and_no_point_rules_out(points):
    """By brute force over what a point must lose somewhere for every other one to be no better everywhere."""
    expected = []
    for point in points:
        rivals = [other for other in points if other != point]
        expected.append(all(any(own > theirs for own, theirs in zip(point, other, strict=True)) for other in rivals))
    assert frontier(points) == expected


@given(POINTS)
def test_whatever_is_off_the_frontier_is_beaten_by_something_on_it(points):
    on = [point for point, best in zip(points, frontier(points), strict=True) if best]
    assert on
    for point, best in zip(points, frontier(points), strict=True):
        if not best:
            assert any(all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in on)


def test_a_line_of_equal_points_stays_together():
    assert frontier([(1, 1), (1, 1), (0, 2), (0, 1)]) == [True, True, True, False]


@settings(deadline=None)  # the first one imports scipy
@given(st.lists(st.integers(0, 5), min_size=3, max_size=9), st.randoms())
def test_kendall_is_the_balance_of_pairs(first, random):
    second = [random.randint(0, 5) for _ in first]
    found = agreement(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
        return
    pairs = list(itertools.combinations(zip(first, second, strict=True), 2))
    balance = sum((a > b) - (a < b) if c > d else (a < b) - (a > b) if c < d else 0 for (a, c), (b, d) in pairs)
    untied = [sum(x[at] != y[at] for x, y in pairs) for at in (0, 1)]
    assert found.kendall == pytest.approx(balance / (untied[0] * untied[1]) ** 0.5)
    ranks = [mean_ranks({"one": values}) for values in (first, second)]
    centred = [[rank - sum(each) / len(each) for rank in each] for each in ranks]
    product = sum(a * b for a, b in zip(*centred, strict=True))
    norms = [sum(a * a for a in each) for each in centred]
    assert found.spearman == pytest.approx(product / (norms[0] * norms[1]) ** 0.5)
    assert found.num_plans == len(first)


def test_a_perfect_and_a_reversed_order():
    first = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert agreement(first, [value**3 for value in first]).spearman == pytest.approx(1)
    reverse = agreement(first, [-value for value in first])
    assert reverse.kendall == pytest.approx(-1)
    # Two of 6! orders are as extreme.
    assert reverse.kendall_p == pytest.approx(2 / 720)


def test_too_little_to_say_anything():
    assert agreement([1.0, 2.0], [1.0, 2.0]) is None
    assert agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    with pytest.raises(ValueError, match="3 values and 2"):
        agreement([1.0, 2.0, 3.0], [1.0, 2.0])


def test_ranks_are_shared_and_averaged():
    assert mean_ranks({"a": [3.0, 1.0, 3.0]}) == [1.5, 3.0, 1.5]
    assert mean_ranks({"a": [3.0, 2.0, 1.0], "b": [1.0, 3.0, 2.0]}) == [2.0, 1.5, 2.5]
