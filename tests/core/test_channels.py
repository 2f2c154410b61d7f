"""Massive channels: which they are, and states without them or with all channels alike."""

import pytest
import torch

from tasks.core.channels import (
    dominated,
    largest_channels,
    massive_channels,
    standardised,
    without_massive_channels,
)
from tasks.core.cka import ESTIMATORS, cka, linear_cka
from tasks.core.errors import InputError

NUM_ROWS, WIDTH = 200, 100


def states(*factors: dict[int, float], offset: float = 3.0) -> torch.Tensor:
    """A state of independent channels for each table of factors, by which channels are larger."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(len(factors), NUM_ROWS, WIDTH, generator=generator) + offset
    for state, own in zip(made, factors, strict=True):
        for channel, factor in own.items():
            state[:, channel] *= factor
    return made


def test_the_largest_channel_has_its_share_of_the_variance() -> None:
    given = states({}, {7: 30.0})
    share, channel = largest_channels(given)
    variance = given[1].double().var(dim=0, correction=0)
    assert channel[1] == 7
    assert float(share[1]) == pytest.approx(float(variance[7] / variance.sum()), rel=1e-5)
    assert share[0] < 0.03
    assert largest_channels(torch.ones(1, 5, 4))[0].tolist() == [0.0]


def test_massive_channels_are_found_behind_larger_ones_and_in_any_state() -> None:
    # Beside a channel of a thousand times the variance, one of a hundred times has a small share.
    given = states({7: 30.0, 3: 10.0}, {}, {50: 10.0})
    assert massive_channels(given) == [3, 7, 50]
    assert massive_channels(states({}, {})) == []
    assert without_massive_channels(given).shape == (3, NUM_ROWS, WIDTH - 3)
    assert torch.equal(without_massive_channels(given)[0, :, 3], given[0, :, 4])


def test_at_most_a_tenth_of_all_channels_is_left_out() -> None:
    powers = {channel: 10.0**channel for channel in range(12)}
    assert massive_channels(states(powers, offset=0.0)) == list(range(2, 12))


def test_standardised_channels_have_mean_zero_and_variance_one_and_constant_ones_are_zero() -> None:
    given = states({7: 1e4}, {3: 1e-3})
    given[:, :, 5] = 1234.5
    found = standardised(given)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(2, WIDTH), atol=1e-4, rtol=0)
    expected = torch.ones(2, WIDTH)
    expected[:, 5] = 0
    torch.testing.assert_close(found.var(dim=1, correction=0), expected, atol=1e-3, rtol=0)


def test_one_channel_makes_unrelated_states_alike_until_it_is_left_out_or_standardised() -> None:
    given = states({}, {})
    shared = 50 * torch.randn(NUM_ROWS, generator=torch.Generator().manual_seed(1))
    given[:, :, 9] = shared
    assert linear_cka(given)[0, 1] > 0.99
    for estimator in ("trimmed_cka", "standardised_cka"):
        assert cka(given, estimator)[0, 1] < 0.5
    torch.testing.assert_close(cka(given, "trimmed_cka"), linear_cka(given[:, :, [c for c in range(WIDTH) if c != 9]]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_names_a_state_without_variance(estimator: str) -> None:
    given = states({}, {})
    given[1] = 2.0
    with pytest.raises(InputError, match="the second"):
        cka(given, estimator, names=["the first", "the second"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_names_a_state_that_is_not_finite(estimator: str) -> None:
    given = states({}, {})
    given[1, 3, 5] = float("nan")
    with pytest.raises(InputError, match="the second holds NaN"):
        cka(given, estimator, names=["the first", "the second"])


def test_an_unknown_estimator_lists_the_choices() -> None:
    with pytest.raises(
        InputError, match="estimator = 'cosine'; choose from linear_cka, debiased_cka, rbf_cka, trimmed"
    ):
        cka(states({}), "cosine")


def test_the_sentence_counts_blocks_and_names_channels() -> None:
    assert dominated([0.9, 0.2, 0.5], [1, 2, 3], "linear_cka") == ""
    found = dominated([0.1, 0.51, 0.823, 0.4], [1, 507, 507, 3], "linear_cka")
    assert found.startswith("Behind 2 of 3 blocks, one channel (number 507) holds more than half")
    assert "up to 82%" in found
    assert "similarity.estimator" in found
    assert "similarity.estimator" not in dominated([0.1, 0.51], [1, 507], "standardised_cka")
    assert "(number 3, 507)" in dominated([0.1, 0.51, 0.6], [1, 507, 3], "trimmed_cka")
