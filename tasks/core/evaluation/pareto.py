"""The Pareto frontier of several results."""

from collections.abc import Sequence


def frontier(points: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each point whether it is on the Pareto frontier; higher is better in every coordinate.

    A point is off the frontier when another one is at least as high in all coordinates and higher in one; equal points
    are on or off together. The time is quadratic, which is fine for some hundreds of points.
    """
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(point: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(point, other, strict=True)) and any(
        a > b for a, b in zip(point, other, strict=True)
    )
