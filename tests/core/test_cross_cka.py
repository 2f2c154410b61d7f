"""Two networks against the formula, against one network, and the laws of what CKA does not see."""

import numpy as np
import pytest
import torch

from tasks.core.cka import linear_cka, rbf_cka
from tasks.core.cross_cka import cross_cka
from tasks.core.errors import InputError

KINDS = {
    "linear": ({}, lambda states: linear_cka(states)),
    "debiased": ({"debiased": True}, lambda states: linear_cka(states, debiased=True)),
    "rbf": ({"kernel": "rbf"}, lambda states: rbf_cka(states)),
}


def states(num_states: int, width: int, seed: int, num_rows: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_states, num_rows, width, generator=generator).cumsum(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_against_itself_is_its_own_similarity(kind: str) -> None:
    options, own = KINDS[kind]
    first = states(5, 12, 0)
    found = cross_cka(first, first, **options)
    np.testing.assert_allclose(found, own(first), atol=1e-6)
    np.testing.assert_allclose(found.diagonal(), 1.0, atol=1e-6)


def test_widths_and_depths_may_differ_and_every_entry_is_the_formula() -> None:
    first, second = states(5, 12, 0), states(3, 40, 1)
    found = cross_cka(first, second)
    assert found.shape == (5, 3)
    for row, left in enumerate(first.double() - first.double().mean(1, keepdim=True)):
        for column, right in enumerate(second.double() - second.double().mean(1, keepdim=True)):
            norms = (left.T @ left).norm() * (right.T @ right).norm()
            expected = (left.T @ right).norm() ** 2 / norms
            assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_exchanged_models_give_the_transpose(kind: str) -> None:
    options, _ = KINDS[kind]
    first, second = states(5, 12, 0), states(3, 40, 1)
    np.testing.assert_allclose(cross_cka(first, second, **options), cross_cka(second, first, **options).T, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_scale_and_shift_of_one_model_change_nothing(kind: str) -> None:
    options, own = KINDS[kind]
    first = states(4, 12, 0).double()
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    np.testing.assert_allclose(cross_cka(first, 7 * first @ rotation + 2, **options), own(first), atol=1e-6)


def test_other_rows_and_broken_states_are_refused() -> None:
    first = states(3, 8, 0)
    with pytest.raises(InputError, match="20 rows against 19"):
        cross_cka(first, first[:, :19])
    with pytest.raises(InputError, match="1 rows are too few"):
        cross_cka(first[:, :1], first[:, :1])
    broken = first.clone()
    broken[2, 0, 0] = torch.inf
    with pytest.raises(InputError, match="the student's end holds NaN or infinite"):
        cross_cka(first, broken, second_names=["a", "b", "the student's end"])
