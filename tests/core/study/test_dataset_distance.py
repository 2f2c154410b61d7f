"""Distances of clouds against scipy and pair-by-pair sums, laws of a metric, and maps of points in a plane."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import energy_distance as scipy_energy
from sklearn.decomposition import PCA

from tasks.core.errors import InputError
from tasks.core.study.dataset_distance import (
    DISTANCES,
    classical_map,
    dataset_distances,
    energy_distance,
    frechet_distance,
    mmd,
    principal_map,
)

NAMES = ("people", "weather", "birds")
MEASURES: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "energy": energy_distance,
    "mmd": lambda first, second: mmd(first, second, 2.0),
    "frechet": frechet_distance,
}


def cloud(num_rows: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator, dtype=torch.float64) + shift


def naive(first: torch.Tensor, second: torch.Tensor, kernel: Callable[[float], float]) -> float:
    """Mean of a function of the distance over all pairs, one at a time."""
    return float(np.mean([[kernel(float((x - y).norm())) for y in second] for x in first]))


def test_energy_is_scipys_in_one_dimension() -> None:
    first, second = cloud(30, 1, 0), cloud(20, 1, 1, shift=0.7)
    expected = scipy_energy(first[:, 0].numpy(), second[:, 0].numpy())
    assert energy_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_energy_and_mmd_are_sums_over_pairs() -> None:
    first, second = cloud(9, 5, 0), cloud(7, 5, 1, shift=0.7)
    across, own, others = (naive(*pair, float) for pair in ((first, second), (first, first), (second, second)))
    assert energy_distance(first, second) == pytest.approx((2 * across - own - others) ** 0.5, rel=1e-9)
    bell = lambda distance: float(np.exp(-(distance**2) / (2 * 1.3**2)))  # noqa: E731
    across, own, others = (naive(*pair, bell) for pair in ((first, second), (first, first), (second, second)))
    assert mmd(first, second, 1.3) == pytest.approx((own + others - 2 * across) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("width", [3, 40])
def test_frechet_is_the_formula_with_matrices_also_with_fewer_rows_than_columns(width: int) -> None:
    first, second = cloud(30, width, 0) * 1.7, cloud(25, width, 1, shift=0.2)
    left, right = (np.cov(part.numpy(), rowvar=False) for part in (first, second))
    # tr((C1 C2)^(1/2)) as the symmetric (C1^(1/2) C2 C1^(1/2))^(1/2), by eigenvalues: C1 C2 itself may be singular.
    root = np.real(sqrtm(left + 1e-13 * np.eye(width)))
    common = np.sqrt(np.clip(np.linalg.eigvalsh(root @ right @ root), 0, None)).sum()
    shift = float((first.mean(0) - second.mean(0)).square().sum())
    expected = (shift + np.trace(left) + np.trace(right) - 2 * common) ** 0.5
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_laws_of_a_metric(name: str) -> None:
    measure = MEASURES[name]
    clouds = [cloud(12, 4, seed, shift=0.3 * seed) for seed in range(6)]
    assert measure(clouds[0], clouds[0].flip(0)) == pytest.approx(0.0, abs=1e-6)
    for first in clouds:
        for second in clouds:
            assert measure(first, second) == pytest.approx(measure(second, first), abs=1e-6)
            for third in clouds:
                assert measure(first, third) <= measure(first, second) + measure(second, third) + 1e-6


@pytest.mark.parametrize("name", DISTANCES)
def test_data_sets_are_further_apart_than_their_halves_and_the_unit_cancels(name: str) -> None:
    clouds = [cloud(80, 6, seed, shift=seed) for seed in range(3)]
    found = dataset_distances(clouds, NAMES)
    distances = found.distances[name]
    assert torch.equal(distances, distances.T)
    assert not distances.diagonal().any()
    assert distances[0, 2] > distances[0, 1] > 2 * found.halves[name].max()
    scaled = dataset_distances([50 * part - 7 for part in clouds], NAMES)
    torch.testing.assert_close(scaled.distances[name], distances, atol=1e-5, rtol=1e-5)


def test_points_of_a_plane_are_mapped_as_they_lie() -> None:
    points = cloud(7, 2, 0)
    places, share = classical_map(torch.cdist(points, points))
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(points, points), atol=1e-9, rtol=1e-9)
    assert share == pytest.approx(1.0, abs=1e-9)
    assert places[:, 0].var() >= places[:, 1].var()


def test_the_map_of_two_data_sets_and_of_points_beyond_a_plane() -> None:
    places, share = classical_map(torch.tensor([[0.0, 3.0], [3.0, 0.0]]))
    torch.testing.assert_close(places.abs(), torch.tensor([[1.5, 0.0], [1.5, 0.0]]).double())
    assert share == 1.0
    points = torch.eye(5, dtype=torch.float64)
    assert classical_map(torch.cdist(points, points))[1] == pytest.approx(0.5)


def test_rows_are_mapped_to_their_principal_components() -> None:
    clouds = [cloud(30, 5, seed) * torch.tensor([4.0, 2.0, 1, 0.5, 0.1]).double() for seed in range(3)]
    places, share = principal_map(clouds, NAMES)
    plain = PCA(2).fit(torch.cat(clouds).numpy())
    assert share == pytest.approx(plain.explained_variance_ratio_.sum(), rel=1e-6)
    expected = torch.tensor(plain.transform(torch.cat(clouds).numpy()))
    torch.testing.assert_close(
        torch.pdist(places) / torch.pdist(places).max(), torch.pdist(expected) / torch.pdist(expected).max()
    )


def test_refusals() -> None:
    good = cloud(10, 4, 0)
    with pytest.raises(InputError, match="1 data sets: it takes at least 2"):
        dataset_distances([good], NAMES[:1])
    with pytest.raises(InputError, match="states of weather have width 5, those of people 4"):
        dataset_distances([good, cloud(10, 5, 0)], NAMES[:2])
    with pytest.raises(InputError, match="weather: 1 rows are too few"):
        dataset_distances([good, good[:1]], NAMES[:2])
    with pytest.raises(InputError, match="states of weather hold NaN"):
        dataset_distances([good, good * torch.nan], NAMES[:2])
    with pytest.raises(InputError, match="the same for every row of every data set"):
        dataset_distances([torch.full((9, 4), 0.1), torch.full((7, 4), 0.1)], NAMES[:2])
