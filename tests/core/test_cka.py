"""Similarities against plain float64 numpy written from the formulas, hand-computed cases, and laws."""

import numpy as np
import pytest
import torch

from tasks.core.cka import BlockInfluence, angular_distance, linear_cka, rbf_cka
from tasks.core.errors import InputError

ESTIMATORS = {
    "linear": linear_cka,
    "debiased": lambda states: linear_cka(states, debiased=True),
    "rbf": rbf_cka,
    "debiased rbf": lambda states: rbf_cka(states, debiased=True),
}


def random_states(num_states: int = 5, num_rows: int = 20, width: int = 12, seed: int = 0) -> torch.Tensor:
    """States that drift from block to block, as those of a network do."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(num_states, num_rows, width, generator=generator)
    return steps.cumsum(0)


def hsic(left: np.ndarray, right: np.ndarray) -> float:
    """tr(K H L H), Gretton et al. 2005, without its factor, which cancels."""
    centring = np.eye(len(left)) - 1 / len(left)
    return float(np.trace(left @ centring @ right @ centring))


def unbiased_hsic(left: np.ndarray, right: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n = len(left)
    left, right = left - np.diag(np.diag(left)), right - np.diag(np.diag(right))
    ones = np.ones(n)
    trace = np.trace(left @ right)
    product = (ones @ left @ ones) * (ones @ right @ ones) / ((n - 1) * (n - 2))
    return float((trace + product - 2 / (n - 2) * (ones @ left @ right @ ones)) / (n * (n - 3)))


def linear_kernel(states: np.ndarray) -> np.ndarray:
    return states @ states.T


def gaussian_kernel(states: np.ndarray) -> np.ndarray:
    square = ((states[:, None] - states[None]) ** 2).sum(-1)
    distances = np.sort(square[np.triu_indices(len(states), 1)])
    return np.exp(-square / (2 * max(distances[(len(distances) - 1) // 2], 1e-300)))


def reference(states: torch.Tensor, kernel=linear_kernel, index=hsic) -> np.ndarray:
    """All pairs by the formula, one pair at a time."""
    kernels = [kernel(state.double().numpy()) for state in states]
    return np.array([[index(a, b) / np.sqrt(index(a, a) * index(b, b)) for b in kernels] for a in kernels])


REFERENCES = {
    "linear": lambda states: reference(states),
    "debiased": lambda states: reference(states - states.mean(1, keepdim=True), index=unbiased_hsic),
    "rbf": lambda states: reference(states, kernel=gaussian_kernel),
    "debiased rbf": lambda states: reference(states, kernel=gaussian_kernel, index=unbiased_hsic),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shape", [(5, 20, 12), (4, 9, 40), (3, 64, 3)])
def test_equals_the_formula(name, shape):
    states = random_states(*shape)
    np.testing.assert_allclose(ESTIMATORS[name](states).numpy(), REFERENCES[name](states), atol=1e-5)


def test_linear_equals_its_feature_form():
    states = random_states(2, 15, 6).double()
    left, right = (state - state.mean(0) for state in states)
    expected = (left.T @ right).norm() ** 2 / ((left.T @ left).norm() * (right.T @ right).norm())
    assert linear_cka(states)[0, 1].item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_case_by_hand():
    # Columns (1,-1,0,0) and (0,0,1,-1) are orthogonal and centred; the second state keeps the first of them only:
    # ||Y'X||^2 = 4, ||X'X|| = sqrt(8), ||Y'Y|| = 2.
    both = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    one = both * torch.tensor([1.0, 0.0])
    other = both * torch.tensor([0.0, 1.0])
    similarity = linear_cka(torch.stack([both, one, other]))
    assert similarity[0, 1].item() == pytest.approx(4 / (8**0.5 * 2), abs=1e-6)
    assert similarity[1, 2].item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_laws(name):
    states = random_states()
    similarity = ESTIMATORS[name](states)
    assert torch.equal(similarity, similarity.T)
    assert torch.equal(similarity.diagonal(), torch.ones(5))
    assert similarity.max() <= 1 + 1e-6
    if "debiased" not in name:
        assert similarity.min() >= -1e-6
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    changed = states.clone()
    changed[2] = 1e3 * states[2] @ rotation + 5.0
    torch.testing.assert_close(ESTIMATORS[name](changed), similarity, atol=2e-5, rtol=0)
    order = torch.randperm(states.shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ESTIMATORS[name](states[:, order]), similarity, atol=1e-5, rtol=0)


def test_the_biased_estimator_is_high_for_independent_states_and_the_debiased_one_is_not():
    independent = torch.randn(2, 128, 512, generator=torch.Generator().manual_seed(3))
    assert linear_cka(independent)[0, 1] > 0.7
    assert abs(linear_cka(independent, debiased=True)[0, 1]) < 0.02


@pytest.mark.parametrize("debiased", [False, True])
def test_float64_states_are_compared_in_float64(debiased):
    states = random_states(3, 12, 6).double()
    similarity = linear_cka(states, debiased)
    assert similarity.dtype == torch.float64
    assert similarity.diagonal().tolist() == [1.0, 1.0, 1.0]
    expected = REFERENCES["debiased" if debiased else "linear"](states)
    np.testing.assert_allclose(similarity.numpy(), expected, atol=1e-13)


@pytest.mark.parametrize("num_rows", [12, 64])
def test_gaussian_kernel_where_most_rows_are_the_same(num_rows):
    # Last tokens are, where answers are few. The median distance is zero: the kernel is 1 for equal rows, 0 elsewhere.
    states = random_states(2, num_rows, 32)
    states[1, : num_rows * 4 // 5] = states[1, 0]
    np.testing.assert_allclose(rbf_cka(states).numpy(), REFERENCES["rbf"](states), atol=1e-5)


@pytest.mark.parametrize("estimator", [linear_cka, rbf_cka])
@pytest.mark.parametrize("num_rows", [8, 64])
@pytest.mark.parametrize("kind", ["every two rows are equally alike", "one row differs from all others"])
def test_debiasing_refuses_what_it_leaves_only_rounding_of(estimator, num_rows, kind):
    states = random_states(3, num_rows, num_rows)
    if kind == "every two rows are equally alike":
        states[1] = 0.3 * torch.eye(num_rows)
    else:
        states[1, :-1] = states[1, 0]
    assert estimator(states).isfinite().all()
    with pytest.raises(InputError, match="block 1 has no structure between rows"):
        estimator(states, debiased=True)


@pytest.mark.parametrize("debiased", [False, True])
def test_one_row_far_from_all_others_is_still_compared(debiased):
    states = random_states()
    states[:, 4] *= 1e3
    expected = REFERENCES["debiased" if debiased else "linear"](states)
    np.testing.assert_allclose(linear_cka(states, debiased).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_overflow_at_extreme_scales(scale):
    states = random_states()
    torch.testing.assert_close(linear_cka(states * scale), linear_cka(states), atol=1e-5, rtol=0)


def test_half_precision_states_are_measured_in_float32():
    states = random_states()
    torch.testing.assert_close(linear_cka(states.bfloat16()), linear_cka(states.bfloat16().float()))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda states: states[:, :3], "3 rows are too few"),
        (lambda states: states[0], "states must be"),
        (lambda states: with_value(states, float("nan")), "block 3 holds NaN or infinite"),
        (lambda states: with_value(states, float("inf")), "block 3 holds NaN or infinite"),
        (lambda states: constant(states), "block 3 is the same for every row"),
    ],
)
def test_degenerate_input_names_the_block(name, break_it, message):
    with pytest.raises(InputError, match=message):
        ESTIMATORS[name](break_it(random_states()))


@pytest.mark.parametrize("estimator", [linear_cka, rbf_cka])
def test_errors_call_states_by_the_names_given(estimator):
    names = ["the embeddings", *(f"block {index}" for index in range(4))]
    with pytest.raises(InputError, match="representation of block 2 holds NaN"):
        estimator(with_value(random_states(), float("nan")), names=names)
    with pytest.raises(InputError, match="representation of block 2 is the same"):
        estimator(constant(random_states()), names=names)


def with_value(states: torch.Tensor, value: float) -> torch.Tensor:
    states[3, 7, 2] = value
    return states


def constant(states: torch.Tensor) -> torch.Tensor:
    states[3] = states[3, 0] * 0.1
    return states


def test_angular_distance_equals_the_formula():
    states = random_states(4, 10, 8)
    found = angular_distance(states)
    unit = states.double() / states.double().norm(dim=-1, keepdim=True)
    cosine = torch.einsum("and,bnd->abn", unit, unit).clamp(-1, 1)
    expected = (cosine.arccos() / torch.pi).mean(-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(found.diagonal(), torch.zeros(4))


def test_angular_distance_by_hand():
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    states = torch.tensor([[east], [north], [west]])
    torch.testing.assert_close(angular_distance(states)[0], torch.tensor([0.0, 0.5, 1.0]))


def test_block_influence_counts_real_tokens_over_batches():
    generator = torch.Generator().manual_seed(4)
    inputs, outputs = torch.randn(2, 6, 5, 8, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.6
    influence = BlockInfluence()
    for rows in (slice(0, 2), slice(2, 6)):
        influence.update(0, inputs[rows], outputs[rows], mask[rows])
        influence.update(1, inputs[rows], inputs[rows] * 3, mask[rows])
    pairs = [(inputs[row, place], outputs[row, place]) for row, place in mask.nonzero().tolist()]
    expected = np.mean([1 - float(a @ b / (a.norm() * b.norm())) for a, b in pairs])
    assert influence.result().tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_block_influence_by_hand_in_the_order_of_the_blocks():
    east, north, west = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[-1.0, 0.0]]]])
    mask = torch.ones(1, 1)
    influence = BlockInfluence()
    influence.update(2, east, west, mask)
    influence.update(0, east, north, mask)
    influence.update(1, east, east, mask)
    assert influence.result().tolist() == pytest.approx([1.0, 0.0, 2.0], abs=1e-6)


def test_block_influence_is_measured_in_float32():
    inputs = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(6)).bfloat16()
    outputs = (inputs.float() * 1.25 + 0.01).bfloat16()
    mask = torch.ones(1, 64)
    found, expected = BlockInfluence(), BlockInfluence()
    found.update(0, inputs, outputs, mask)
    expected.update(0, inputs.double(), outputs.double(), mask)
    assert found.result().item() == pytest.approx(expected.result().item(), abs=1e-6)
