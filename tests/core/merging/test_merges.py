"""Merges of tunings, against small cases computed by hand, laws, and numpy's order statistics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.core.errors import SettingError
from tasks.core.merging.magnitudes import kth_largest_magnitude
from tasks.core.merging.merges import clipping_factors, mean_of_elected, trim_small, trimmed_mean, weighted_mean
from tasks.core.merging.method import Merging

# Three tunings, four parameters.
CHANGES = torch.tensor([[1.0, -2.0, 0.0, 8.0], [3.0, 2.0, 0.0, -1.0], [5.0, 9.0, 3.0, -2.0]], dtype=torch.float64)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_weighted_mean() -> None:
    found = weighted_mean(CHANGES, doubles(1, 2, 1))
    assert torch.equal(found, doubles(3, 2.75, 0.75, 1.0))
    assert torch.equal(weighted_mean(CHANGES, doubles(1000, 2000, 1000)), found)


def test_a_trimmed_mean_leaves_out_both_ends() -> None:
    five = torch.cat([CHANGES, doubles(-100, -100, -100, -100)[None], doubles(100, 100, 100, 100)[None]])
    assert torch.equal(trimmed_mean(five, 1), CHANGES.mean(0))
    assert torch.equal(trimmed_mean(CHANGES, 0), CHANGES.mean(0))


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_the_median_is_the_one_of_numpy(count: int) -> None:
    changes = torch.randn(count, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = trimmed_mean(changes, Merging("median").num_trimmed(count))
    np.testing.assert_allclose(found.numpy(), np.median(changes.numpy(), axis=0), rtol=1e-15)


def test_ties_keeps_the_large_elects_a_sign_and_averages_those_that_agree() -> None:
    trimmed = trim_small(CHANGES, doubles(2, 2, 3))
    assert torch.equal(trimmed, torch.stack([doubles(0, -2, 0, 8), doubles(3, 2, 0, 0), doubles(5, 9, 3, 0)]))
    # Elected: + by 8, + by 9 (of 2 and 9 and -2), + by 3, + by 8.
    assert torch.equal(mean_of_elected(trimmed), doubles(4, 5.5, 3, 8))


def test_ties_changes_nothing_where_no_sign_is_elected() -> None:
    assert torch.equal(mean_of_elected(torch.stack([doubles(2, 0), doubles(-2, 0)])), doubles(0, 0))


def test_a_tuning_larger_than_the_median_is_clipped_to_it() -> None:
    assert torch.equal(clipping_factors(doubles(2, 4, 400)), doubles(1, 1, 0.01))
    assert torch.equal(clipping_factors(doubles(0, 0, 5)), doubles(0, 0, 0)), "the others say that nothing changed"


@pytest.mark.parametrize("rank", [1, 2, 3, 400, 649, 650, 1000])
def test_the_kth_largest_magnitude_is_exact(rank: int) -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers[100:450] = 0
    numbers[3] = -1e-42
    expected = numbers.float().abs().sort(descending=True).values[rank - 1]
    assert kth_largest_magnitude(lambda: numbers.split(77), rank) == float(expected)


def test_options_that_do_not_fit_the_method_are_refused() -> None:
    for options, words in (
        ({"method": "average"}, "choose from mean, trimmed-mean, median, ties"),
        ({"method": "median", "weights": (1.0, 2.0)}, 'for merge = "mean" only'),
        ({"method": "mean", "weights": (1.0, 0.0)}, "larger than 0"),
        ({"method": "mean", "weights": (1.0, float("nan"))}, "larger than 0"),
        ({"method": "mean", "trim": 0.1}, '"trimmed-mean" and "ties" only'),
        ({"method": "trimmed-mean", "trim": 0.5}, "between 0 and 0.5"),
        ({"method": "ties", "trim": 1.0}, "between 0 and 0.5, of"),
    ):
        with pytest.raises(SettingError, match=words):
            Merging(**options)  # type: ignore[arg-type]


def test_a_merge_that_would_leave_out_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match=r"leaves out nothing of 4 tunings with trim = 0\.2"):
        Merging("trimmed-mean").require_fits(4)
    with pytest.raises(SettingError, match="so that it is the mean"):
        Merging("median").require_fits(2)
    with pytest.raises(SettingError, match="weights has 2 numbers, and there are 3 tunings"):
        Merging("mean", (1.0, 2.0)).require_fits(3)
    Merging("trimmed-mean", trim=0.25).require_fits(4)
    Merging("ties").require_fits(2)
    assert Merging("trimmed-mean", trim=0.29).num_trimmed(100) == 29
