"""Loss on lines and planes between models, and the height of the barrier between two of them.

CRaSh (arXiv 2310.15477, section 5) asks whether full tuning, Offsite-Tuning and CRaSh end in one basin. Blocks below
the lowest changed one run once for all points of a line or plane, and blocks that only the outer coordinate changes run
once for each of its values.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.prefix import MAX_BYTES, PrefixStates, reusing
from tasks.core.errors import InputError
from tasks.core.study.interpolation import Mixture

# Frankle et al. 2020 (arXiv 1912.05671, section 2) call two networks linearly connected when the error on the path
# rises by less than 2 % above that at its ends; here the loss takes the place of the error.
TOLERANCE = 0.02

Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Measured:
    """Scores of one model on one task.

    loss: nats per token; metric: the metric of the task; row_losses: [R], nats per row, and num_tokens: [R], in the
    order of the rows.
    """

    loss: float
    metric: float
    row_losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    num_tokens: Tensor = field(default_factory=lambda: torch.zeros(0))


Measure = Callable[[nn.Module], Measured]


@dataclass(frozen=True)
class Barrier:
    """Loss barrier: the largest rise of the loss on the path between two models above the line between their losses.

    height: max over t of L(t) - ((1 - t) L(0) + t L(1)), in nats, at `place` = t (Entezari et al. 2022, arXiv
    2110.06296, definition 1); relative: height divided by the mean loss of both ends; stderr: standard error of the
    height over rows, which are the same at all points (None for a single row); metric_drop: the largest loss of the
    task's metric, computed in the same way; connected: whether `relative` is at most 2 %.
    """

    height: float
    place: float
    relative: float
    stderr: float | None
    metric_drop: float
    connected: bool


def survey(
    mixture: Mixture,
    coordinates: Sequence[Sequence[float]],
    measure: Measure,
    *,
    max_bytes: int = MAX_BYTES,
    progress: Progress = iter,
) -> list[Measured]:
    """Measure the model at each of these coordinates, in this order.

    Blocks below those that changed since the last point do not run again, so the coordinates that change the lowest
    blocks should vary slowest. States take up to `max_bytes`; when they do not fit, all blocks run, with the same
    results.
    """
    first = [mixture.first_block(axis) for axis in range(len(coordinates[0]) if coordinates else 0)]
    states, found = PrefixStates(max_bytes), []
    before: Sequence[float] | None = None
    with reusing(mixture.model, states, set(first)):
        for place in progress(coordinates):
            moved = [axis for axis in range(len(place)) if before is not None and place[axis] != before[axis]]
            lowest = min((first[axis] for axis in moved), default=math.inf)
            for position in {position for position in first if position > lowest}:
                states.forget(position)
            mixture.set(place)
            found.append(measure(mixture.model))
            before = place
    return found


def grid(begin: float, end: float, num_points: int) -> list[float]:
    """Equally spaced values from begin to end; 0 and 1 are exact if they are on the grid.

    Raises:
        InputError: unless there are at least 2 points and begin < end.
    """
    if num_points < 2 or not begin < end:
        raise InputError(f"{num_points} points from {begin} to {end} are no axis: take at least 2, and begin < end")
    last = num_points - 1
    return [(begin * (last - place) + end * place) / last for place in range(num_points)]


def plane_order(mixture: Mixture, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[int, int]]:
    """Order all points (index in xs, index in ys) so that the coordinate that changes higher blocks varies fastest."""
    if mixture.first_block(0) <= mixture.first_block(1):
        return [(i, j) for i in range(len(xs)) for j in range(len(ys))]
    return [(i, j) for j in range(len(ys)) for i in range(len(xs))]


def barrier(
    places: Sequence[float],
    found: Sequence[Measured],
    higher_is_better: bool = False,
    names: tuple[str, str] = ("0", "1"),
) -> Barrier:
    """Loss barrier of a path from places[0] = 0 to places[-1] = 1. names: the names of the two end points.

    Raises:
        InputError: when a loss is not finite.
    """
    assert (places[0], places[-1]) == (0.0, 1.0), "a path goes from 0 to 1"
    if odd := [place for place, each in zip(places, found, strict=True) if not math.isfinite(each.loss)]:
        raise InputError(
            f"the loss is not finite at t = {odd[0]:.3g} of the path from point {names[0]!r} to {names[1]!r}, and there"
            " is no barrier to tell: leave one of them out of study.points, or compute in model.precision ="
            ' "float32"'
        )
    begin, end = found[0], found[-1]
    heights = [
        each.loss - ((1 - place) * begin.loss + place * end.loss) for place, each in zip(places, found, strict=True)
    ]
    # The height at the ends is 0 by definition; remove rounding errors.
    heights[0] = heights[-1] = 0.0
    at = max(range(len(heights)), key=heights.__getitem__)
    sign = -1 if higher_is_better else 1
    drops = [
        sign * (each.metric - ((1 - place) * begin.metric + place * end.metric))
        for place, each in zip(places[1:-1], found[1:-1], strict=True)
    ]
    mean = (begin.loss + end.loss) / 2
    relative = heights[at] / mean if mean > 0 else (math.inf if heights[at] > 0 else 0.0)
    return Barrier(
        heights[at],
        places[at],
        relative,
        _paired_error(begin, found[at], end, places[at]),
        max([0.0, *drops]),
        relative <= TOLERANCE,
    )


def _paired_error(begin: Measured, top: Measured, end: Measured, place: float) -> float | None:
    """Standard error of the height as a ratio of sums over rows (Cochran, Sampling Techniques, 6.4)."""
    n = len(top.row_losses)
    if n < 2:
        return None
    raised = top.row_losses - ((1 - place) * begin.row_losses + place * end.row_losses)
    total = top.num_tokens.double().sum()
    spread = (raised - raised.sum() / total * top.num_tokens).square().sum()
    return float((spread * n / (n - 1)).sqrt() / total)
