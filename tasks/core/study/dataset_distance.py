"""Distances between data sets by the states of one model, without pairing rows.

CKA compares two networks on the same rows, but two data sets have no rows in common. Here every data set is a cloud of
points, and clouds are compared. All three distances are metrics: 0 for equal clouds, symmetric, triangle inequality.

Sources: energy distance: Székely and Rizzo 2013 (J. Stat. Plan. Inference 143:1249); maximum mean discrepancy: Gretton
et al. 2012 (JMLR 13:723); Fréchet distance of two Gaussians: Dowson and Landau 1982, on networks' states Heusel et al.
2017 (1706.08500); classical scaling: Torgerson 1952.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.errors import InputError

# Each half of a data set must still have a covariance.
MIN_ROWS = 4


def energy_distance(first: Tensor, second: Tensor) -> float:
    """Energy distance sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|) over all pairs of rows, in the unit of the points.

    first: [n1, d]; second: [n2, d]. The means include each row paired with itself (V-statistic). This makes the
    distance a metric, but two samples of one distribution are of the order of 1/sqrt(n) apart.
    """
    return _root(2 * _mean_distance(first, second) - _mean_distance(first, first) - _mean_distance(second, second))


def mmd(first: Tensor, second: Tensor, bandwidth: float) -> float:
    """Maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)), without unit, at most sqrt(2).

    first: [n1, d]; second: [n2, d]. The means include each row paired with itself, as in `energy_distance`.
    """
    kernel = lambda x, y: float(torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2)).mean())  # noqa: E731
    return _root(kernel(first, first) + kernel(second, second) - 2 * kernel(first, second))


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Wasserstein-2 distance of the Gaussians with the clouds' means and covariances, in the unit of the points.

    first: [n1, d]; second: [n2, d]. sqrt(|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))). The last trace is the
    sum of the singular values of the centred clouds' product [n1, n2], so no matrix [d, d] is computed.
    """
    left, right = (cloud - cloud.mean(dim=0) for cloud in (first, second))
    left, right = left / math.sqrt(len(left) - 1), right / math.sqrt(len(right) - 1)
    shift = float((first.mean(dim=0) - second.mean(dim=0)).square().sum())
    common = float(torch.linalg.svdvals(left @ right.T).sum())
    return _root(shift + float(left.square().sum()) + float(right.square().sum()) - 2 * common)


@dataclass(frozen=True)
class Distances:
    """Distances between D data sets, in units of the pooled points' root mean square distance from their mean.

    distances: [D, D] by name; halves: [D] by name, the distance between two random halves of one data set, which is due
    to sampling alone; bandwidth: the bandwidth of the MMD.
    """

    distances: dict[str, Tensor]
    halves: dict[str, Tensor]
    bandwidth: float


DISTANCES = ("energy", "mmd", "frechet")


def dataset_distances(clouds: Sequence[Tensor], names: Sequence[str], seed: int = 0) -> Distances:
    """Compute all three distances between the states of D data sets, in float64.

    clouds: [n, d] each, all of the same width, with any number of rows. They are scaled together, so that distances can
    be compared between models. The MMD's bandwidth is the median distance between any two points of all data sets.
    names: the names of the data sets in error messages.

    Raises:
        InputError: when there are fewer than 2 data sets or 4 rows, the widths differ, a state is NaN or infinite, or
            all points are equal.
    """
    points = _scaled(clouds, names)
    together = torch.cat(points)
    bandwidth = float(torch.nn.functional.pdist(together).median().clamp(min=torch.finfo(torch.float64).tiny))
    measures: dict[str, Callable[[Tensor, Tensor], float]] = {
        "energy": energy_distance,
        "mmd": lambda first, second: mmd(first, second, bandwidth),
        "frechet": frechet_distance,
    }
    distances = {name: torch.zeros(len(points), len(points), dtype=torch.float64) for name in DISTANCES}
    for name, measure in measures.items():
        for row in range(len(points)):
            for column in range(row):
                value = measure(points[row], points[column])
                distances[name][row, column] = distances[name][column, row] = value
    halves = [_halves(cloud, seed) for cloud in points]
    within = {name: torch.tensor([measure(*pair) for pair in halves]) for name, measure in measures.items()}
    return Distances(distances, within, bandwidth)


def classical_map(distances: Tensor) -> tuple[Tensor, float]:
    """Place D points in a plane by their distances (classical scaling); return [D, 2] and the share explained.

    distances: [D, D]. The share is that of the two axes in the sum of the positive eigenvalues. For points that lie in
    a plane it is 1, and their distances are reproduced exactly. The axis with the larger eigenvalue comes first; the
    coordinate of largest magnitude on each axis is positive.
    """
    square = distances.double().square()
    mean = square.mean(dim=0)
    inner = -(square - mean.unsqueeze(0) - mean.unsqueeze(1) + mean.mean()) / 2
    values, vectors = torch.linalg.eigh(inner)
    positive = values.clamp(min=0.0)
    axes = vectors[:, -2:].flip(1) * positive[-2:].flip(0).sqrt()
    if axes.shape[1] < 2:
        axes = torch.nn.functional.pad(axes, (0, 2 - axes.shape[1]))
    total = float(positive.sum())
    return _signed(axes), float(positive[-2:].sum()) / total if total > 0 else 1.0


def principal_map(clouds: Sequence[Tensor], names: Sequence[str]) -> tuple[Tensor, float]:
    """Project all rows of all data sets on two principal components; return [n1 + n2 + ..., 2] and the variance share.

    All data sets have equal weight, whatever their numbers of rows. Scale and names as in `dataset_distances`.

    Raises:
        InputError: as `dataset_distances`.
    """
    points = _scaled(clouds, names)
    together = torch.cat(points)
    weights = torch.cat([cloud.new_full((len(cloud), 1), 1 / len(cloud)) for cloud in points]).sqrt()
    singular, axes = torch.linalg.svd(weights * together, full_matrices=False)[1:]
    share = float(singular[:2].square().sum() / singular.square().sum())
    return _signed(together @ axes[:2].T), share


def _scaled(clouds: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Centre the clouds at their common mean, in units of their common root mean square distance from it."""
    if len(clouds) < 2:
        raise InputError(f"{len(clouds)} data sets: it takes at least 2 to compare them")
    for cloud, name in zip(clouds, names, strict=True):
        if cloud.shape[1] != clouds[0].shape[1]:
            raise InputError(
                f"the states of {name} have width {cloud.shape[1]}, those of {names[0]} {clouds[0].shape[1]}: data sets"
                " are compared in one model, so capture them all with it"
            )
        if len(cloud) < MIN_ROWS:
            raise InputError(f"{name}: {len(cloud)} rows are too few to compare data sets; give at least {MIN_ROWS}")
        if not cloud.isfinite().all():
            raise InputError(f"the states of {name} hold NaN or infinite values; check the model's weights")
    centre = torch.stack([cloud.double().mean(dim=0) for cloud in clouds]).mean(dim=0)
    points = [cloud.double() - centre for cloud in clouds]
    scale = math.sqrt(sum(float(cloud.square().sum(dim=1).mean()) for cloud in points) / len(points))
    if scale <= 8 * torch.finfo(torch.float32).eps * float(centre.abs().max()):
        raise InputError("the states are the same for every row of every data set, so nothing can be compared")
    return [cloud / scale for cloud in points]


def _halves(cloud: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(cloud), generator=torch.Generator().manual_seed(seed))
    half = len(cloud) // 2
    return cloud[order[:half]], cloud[order[half:]]


def _mean_distance(first: Tensor, second: Tensor) -> float:
    return float(torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").mean())


def _signed(axes: Tensor) -> Tensor:
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0)


def _root(square: float) -> float:
    """Square root, clamped at 0: rounding may leave a tiny negative value between equal clouds."""
    return math.sqrt(max(0.0, square))
