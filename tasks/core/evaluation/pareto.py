"""Which of several results no other one beats in everything."""

from collections.abc import Sequence


def frontier(points: Sequence[Sequence[float]]) -> list[bool]:
    """For each point whether it is on the Pareto frontier; every coordinate is better the higher it is.

    A point leaves the frontier when another one is at least as high everywhere and higher somewhere; equal points stay
    or leave together. Takes time for each pair: for some hundreds of points.
    """
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(point: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(point, other, strict=True)) and any(
        a > b for a, b in zip(point, other, strict=True)
    )
