"""Distances between distributions: each against scipy, the laws of metrics, and what is ruled out or not finite."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance as spatial
from scipy.special import rel_entr

from tasks.core.errors import InputError
from tasks.core.study.divergences import (
    DISTANCES,
    Distances,
    entropy,
    kl_divergence,
    kl_loss,
    log_probabilities,
    positions_at_once,
)

NUM, POSITIONS, VOCABULARY = 4, 3, 50


def distributions(seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random log-probabilities [NUM, POSITIONS, VOCABULARY]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM, POSITIONS, VOCABULARY, generator=generator, dtype=torch.float64) * scale
    return logits.log_softmax(-1).to(dtype)


def measured(ours: torch.Tensor, ground: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    distances = Distances(len(ours))
    distances.update(ours, ours[-1] if ground is None else ground)
    return {name: matrix.numpy() for name, matrix in distances.means().items()}


def by_scipy(p: np.ndarray, q: np.ndarray, ground: np.ndarray) -> dict[str, float]:
    """Of two probability vectors, each as scipy has it or as its definition is written."""
    return {
        "kl": float(rel_entr(p, q).sum()),
        "js": float(spatial.jensenshannon(p, q) ** 2),
        "hellinger": float(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / math.sqrt(2)),
        "total_variation": float(spatial.cityblock(p, q) / 2),
        "wasserstein": float(stats.wasserstein_distance(ground, ground, p, q)),
        "cosine": float(spatial.cosine(p, q)),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_each_distance_is_that_of_scipy(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    ours = distributions(scale=scale, dtype=dtype)
    found, exact = measured(ours), ours.double()
    exact = exact - exact.logsumexp(-1, keepdim=True)
    for i in range(NUM):
        for j in range(NUM):
            each = [
                by_scipy(*(exact[k, at].exp().numpy() for k in (i, j)), ground=exact[-1, at].numpy())
                for at in range(POSITIONS)
            ]
            for name in DISTANCES:
                expected = float(np.mean([values[name] for values in each]))
                assert found[name][i, j] == pytest.approx(expected, rel=10 * tolerance, abs=10 * tolerance), name


@pytest.mark.parametrize("step", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_nearly_equal_distributions_keep_their_digits(scale: float, step: float) -> None:
    """A vocabulary of 152k: divergences of 1e-7 in float32 are those of float64, and not the rounding of the sums."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 151_936, generator=generator) * scale
    logits[1] += step * torch.randn(1, 151_936, generator=generator)
    found = measured(logits.log_softmax(-1))
    exact = logits.double().log_softmax(-1)
    p, q = exact[:, 0].exp().numpy()
    middle = (p + q) / 2
    assert found["kl"][0, 1] == pytest.approx(rel_entr(p, q).sum(), rel=1e-3)
    assert found["kl"][1, 0] == pytest.approx(rel_entr(q, p).sum(), rel=1e-3)
    assert found["js"][0, 1] == pytest.approx((rel_entr(p, middle) + rel_entr(q, middle)).sum() / 2, rel=1e-3)
    alone = kl_divergence(*logits.log_softmax(-1)[:, 0])
    assert float(alone) == pytest.approx(found["kl"][0, 1], rel=1e-6)


def test_what_a_lens_learns_from_is_the_same_divergence() -> None:
    ours = distributions()
    torch.testing.assert_close(kl_loss(ours[0], ours[1]), kl_divergence(ours[0], ours[1]), rtol=1e-12, atol=0)


def test_kl_has_a_direction_and_nothing_else_has() -> None:
    found = measured(distributions())
    assert found.keys() == set(DISTANCES)
    for name, matrix in found.items():
        assert (matrix.diagonal() == 0).all()
        assert np.array_equal(matrix, matrix.T) == (name != "kl"), name
    ours = distributions()
    assert found["kl"][0, 1] == pytest.approx(float(kl_divergence(ours[0], ours[1]).mean()))
    assert found["kl"][1, 0] == pytest.approx(float(kl_divergence(ours[1], ours[0]).mean()))


weights = st.lists(st.floats(0, 1), min_size=6, max_size=6).filter(lambda values: sum(values) > 1e-3)


@settings(max_examples=200, deadline=None)
@given(st.lists(weights, min_size=3, max_size=3))
def test_laws_on_random_distributions(drawn: list[list[float]]) -> None:
    """Triangle inequality of the metrics, bounds, and Pinsker's inequality; some probabilities are exactly 0."""
    values = torch.tensor(drawn, dtype=torch.float64)
    ours = (values / values.sum(-1, keepdim=True)).log().unsqueeze(1)
    found = measured(ours, ground=torch.arange(6.0).double().unsqueeze(0))
    for name in ("hellinger", "total_variation", "wasserstein"):
        for a, b, c in ((0, 1, 2), (1, 0, 2), (0, 2, 1)):
            assert found[name][a, b] <= found[name][a, c] + found[name][c, b] + 1e-12, name
    assert (found["js"] <= math.log(2) + 1e-12).all()
    assert all((found[name] <= 1 + 1e-12).all() for name in ("hellinger", "total_variation", "cosine"))
    assert all((matrix >= 0).all() and np.isfinite(matrix).all() for matrix in found.values())
    assert (found["total_variation"] <= np.sqrt(found["kl"] / 2) + 1e-9).all(), "Pinsker"
    assert (found["hellinger"] ** 2 <= found["total_variation"] + 1e-12).all(), "Le Cam"
    assert (found["total_variation"] <= math.sqrt(2) * found["hellinger"] + 1e-12).all(), "Le Cam"


def test_distributions_that_share_no_token_are_as_far_apart_as_can_be() -> None:
    one, other = torch.full((1, 4), -math.inf), torch.full((1, 4), -math.inf)
    one[0, 0] = other[0, 3] = 0.0
    found = measured(torch.stack([one, other]), ground=torch.tensor([[0.0, 1.0, 2.0, 7.0]]))
    for name, expected in {"hellinger": 1, "total_variation": 1, "cosine": 1, "js": math.log(2)}.items():
        assert found[name][0, 1] == pytest.approx(expected)
    assert found["wasserstein"][0, 1] == 7.0
    assert found["kl"][0, 1] == 1e4, "what is ruled out counts as exp(-10000)"


def test_far_below_the_smallest_float_nothing_is_nan() -> None:
    """Probabilities of exp(-300) are 0 in float32, and their logarithms would be infinite."""
    logits = torch.tensor([[[0.0, -300.0, -200.0]], [[-300.0, 0.0, -200.0]]])
    found = measured(logits.log_softmax(-1))
    assert all(np.isfinite(matrix).all() for matrix in found.values())
    assert found["kl"][0, 1] == pytest.approx(300.0)


def test_positions_can_come_in_parts() -> None:
    ours = distributions()
    parts = Distances(NUM)
    for at in range(POSITIONS):
        parts.update(ours[:, at : at + 1], ours[-1, at : at + 1])
    whole = measured(ours)
    assert parts.num_positions == POSITIONS
    for name, matrix in parts.means().items():
        np.testing.assert_allclose(matrix.numpy(), whole[name], rtol=1e-12, atol=1e-14)


def test_entropy_is_that_of_scipy() -> None:
    ours = distributions()
    np.testing.assert_allclose(entropy(ours).numpy(), stats.entropy(ours.exp().numpy(), axis=-1), rtol=1e-12)


def test_nothing_to_compare_and_nan_are_named() -> None:
    with pytest.raises(InputError, match="no position to compare predictions at"):
        Distances(3).means()
    with pytest.raises(InputError, match=r"predicted by block 2 holds NaN.*norm and head"):
        log_probabilities(torch.tensor([[0.0, math.nan]]), "block 2")


def test_how_many_positions_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit, at least one; and it makes no difference to the sums."""
    assert [positions_at_once(2, 10, numbers) for numbers in (59, 60, 61, 1)] == [2, 3, 3, 1]
    ours, whole = distributions(), measured(distributions())
    monkeypatch.setattr("tasks.core.study.divergences.PAIRED_NUMBERS", 2 * NUM * VOCABULARY)
    for name, matrix in measured(ours).items():
        np.testing.assert_allclose(matrix, whole[name], rtol=1e-12, atol=1e-14)
