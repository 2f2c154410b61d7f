"""Resampled similarities against those computed anew, agreement against scikit-learn, and stability of known cases."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from tasks.core.cka import ESTIMATORS, linear_cka, rbf_cka
from tasks.core.errors import InputError
from tasks.core.study.bootstrap import RowSample, adjusted_rand, bootstrap, subsample
from tasks.core.study.modularity import Cuts

MODULES = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11]]


def modular_states(num_rows: int = 60, width: int = 24, noise: float = 0.4, seed: int = 0) -> torch.Tensor:
    """Blocks of a module are one random representation with noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    common = [torch.randn(num_rows, width, generator=generator) for _ in MODULES]
    means = torch.stack([common[number] for number, module in enumerate(MODULES) for _ in module])
    return means + noise * torch.randn(means.shape, generator=generator)


def structureless_states(num_rows: int = 60, width: int = 24) -> torch.Tensor:
    """Blocks that have nothing in common."""
    return torch.randn(12, num_rows, width, generator=torch.Generator().manual_seed(1))


def test_a_sample_is_the_cka_of_its_rows() -> None:
    states, rows = modular_states().double(), np.array([3, 7, 7, 12, 40, 41, 59, 3, 20])
    linear = RowSample(states, "linear_cka").similarity(rows)
    np.testing.assert_allclose(linear, linear_cka(states[:, rows]), atol=1e-5)
    debiased = RowSample(states, "debiased_cka").similarity(rows)
    np.testing.assert_allclose(debiased, linear_cka(states[:, np.unique(rows)], debiased=True), atol=1e-5)
    every = RowSample(states, "rbf_cka").similarity(range(60))
    np.testing.assert_allclose(every, rbf_cka(states), atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_planted_modules_are_stable(estimator: str) -> None:
    sample = RowSample(modular_states(), estimator)
    found = Cuts(sample.similarity(range(60))).suggested()
    assert found == MODULES
    spread = bootstrap(sample, found, 20)
    assert spread.agreement.mean() == 1.0
    assert np.mean(spread.counts == 3) > 0.8
    assert np.array_equal(np.round(spread.boundaries, 9), [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0])


def test_the_deviation_is_that_of_captures_of_other_rows() -> None:
    captures = [RowSample(modular_states(seed=seed), "debiased_cka").similarity(range(60)) for seed in range(30)]
    expected = np.std([np.diagonal(matrix, 1) for matrix in captures], axis=0)
    spread = bootstrap(RowSample(modular_states(), "debiased_cka"), MODULES, 50)
    assert spread.deviation().mean() == pytest.approx(expected.mean(), rel=0.5)


def test_what_has_no_structure_is_not_stable() -> None:
    sample = RowSample(structureless_states(), "debiased_cka")
    found = Cuts(sample.similarity(range(60))).into(3)
    spread = bootstrap(sample, found, 40)
    assert spread.agreement.mean() < 0.7
    assert spread.counts.min() >= 2
    planted = bootstrap(RowSample(modular_states(), "debiased_cka"), MODULES, 40)
    assert spread.scores.mean() < 0.3 * planted.scores.mean()


def test_fewer_rows_spread_more_and_bias_only_the_biased_estimator() -> None:
    states = structureless_states(num_rows=200)
    means = {}
    for estimator in ("linear_cka", "debiased_cka"):
        sample = RowSample(states, estimator)
        few, many = (subsample(sample, MODULES, rows, 20).adjacent for rows in (20, 150))
        assert few.std(0).mean() > many.std(0).mean()
        means[estimator] = few.mean(), many.mean()
    assert means["linear_cka"][0] > means["linear_cka"][1] + 0.2
    assert np.abs(means["debiased_cka"]).max() < 0.05


def test_the_same_seed_draws_the_same_rows() -> None:
    sample = RowSample(modular_states(), "linear_cka")
    first, again, other = (bootstrap(sample, MODULES, 3, seed).adjacent for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_agreement_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        cuts = [[0, *sorted(generator.choice(11, generator.integers(12), replace=False) + 1), 12] for _ in range(2)]
        first, second = ([list(range(*edge)) for edge in pairwise(edges)] for edges in cuts)
        labels = [np.repeat(range(len(edges) - 1), np.diff(edges)) for edges in cuts]
        assert adjusted_rand(first, second) == pytest.approx(adjusted_rand_score(*labels), abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_that_a_state_does_not_tell_apart_are_not_compared_by_their_rounding(estimator: str) -> None:
    same = list(range(3, 27, 2))
    for seed in range(10):
        states = modular_states(seed=seed)
        states[4, same] = states[4, same[0]].clone()
        sample = RowSample(states, estimator)
        assert sample.similarity(range(60)).shape == (12, 12)
        with pytest.raises(InputError, match="block 4 in 12 rows that were drawn has no structure"):
            sample.similarity(same)


def test_refusals() -> None:
    states = modular_states()
    with pytest.raises(InputError, match="estimator = 'cosine'; choose from linear_cka, debiased_cka, rbf_cka"):
        RowSample(states, "cosine")
    with pytest.raises(InputError, match="1 rows are too few"):
        RowSample(states[:, :1], "linear_cka")
    with pytest.raises(InputError, match="1 resamples show no spread"):
        bootstrap(RowSample(states, "linear_cka"), MODULES, 1)
    with pytest.raises(InputError, match="61 of 60 rows"):
        subsample(RowSample(states, "linear_cka"), MODULES, 61, 2)
    broken = states.clone()
    broken[5, 7, 2] = torch.nan
    with pytest.raises(InputError, match="block 5 holds NaN"):
        RowSample(broken, "linear_cka")
    constant = states.clone()
    constant[2] = 1.5
    with pytest.raises(InputError, match="block 2 is the same for every row"):
        RowSample(constant, "linear_cka")
