"""Scales for numbers with a wide range: losses on planes and curves, increases of both signs, heights of a tree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_LEVELS = 18
# A loss that grows by more than this factor over a plane is drawn on a logarithmic scale.
WIDE_PLANE = 4.0
# If the largest value exceeds this multiple of the median one, rounded up, a linear scale shows little else.
WIDE_INCREASES = 5.0
# With fewer of 1, 2 and 5 times powers of ten in its range, an axis has ticks at equal steps.
MIN_ROUND_NUMBERS = 3


def loss_scale(arrays: Sequence[Any]) -> dict[str, Any]:
    """Return levels, norm and ticks for all these losses; logarithmic for a wide range."""
    import numpy as np
    from matplotlib.colors import LogNorm

    every = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    low, high = float(every.min()), float(every.max())
    if low <= 0 or high / low < WIDE_PLANE:
        return _linear(low, high)
    return {
        "log": True,
        "levels": np.geomspace(low * 0.999, high * 1.001, NUM_LEVELS),
        "norm": LogNorm(low, high),
        "ticks": _round_numbers(low, high),
    }


def metric_scale(array: Any) -> dict[str, Any]:
    """Return a linear scale over the values' range, or a logarithmic one for perplexities with a wide range."""
    import numpy as np

    finite = array[np.isfinite(array)]
    low, high = float(finite.min()), float(finite.max())
    if low > 1 and high / low >= WIDE_PLANE:
        return loss_scale([array])
    return _linear(low, high)


def _linear(low: float, high: float) -> dict[str, Any]:
    import numpy as np
    from matplotlib.colors import Normalize

    high = high if high > low else low + 1.0
    return {"log": False, "levels": np.linspace(low, high, NUM_LEVELS), "norm": Normalize(low, high), "ticks": None}


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten in the range; only the powers where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(found) > 9:
        found = [10.0**power for power in powers if low <= 10.0**power <= high]
    return found[:: -(-len(found) // 9)] if found else [low, high]


def ticks(scale: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for the ticks of such a scale's colour bar."""
    from matplotlib.ticker import MaxNLocator

    return {"ticks": scale["ticks"] if scale["log"] else MaxNLocator(6), "format": "%.3g"}


def logarithmic(panels: "Iterable[Axes]", increases: Sequence[float]) -> None:
    """Set a symmetric logarithmic scale, on which small and large increases of both signs are visible."""
    from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

    for axes in panels:
        linear = _linear_until(increases)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.6)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plain_logarithmic(axes: "Axes") -> None:
    """Set a logarithmic scale for the drawn lines, with ticks in plain numbers: 0.5 and not 5 × 10⁻¹."""
    from matplotlib.ticker import MaxNLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    places = _round_numbers(low, high)
    if len(places) < MIN_ROUND_NUMBERS:
        places = [float(place) for place in MaxNLocator(5).tick_values(low, high) if low <= place <= high]
    _plain_ticks(axes, places)


def linear_below(axes: "Axes", heights: Sequence[float]) -> float | None:
    """Set a scale on which small heights are visible beside very large ones, logarithmic above a limit.

    Returns the limit; None if a linear scale shows all heights.
    """
    median = sorted(heights)[len(heights) // 2]
    if median <= 0 or max(heights) <= WIDE_INCREASES * (limit := _round_up(median)):
        return None
    axes.set_yscale("symlog", linthresh=limit)
    _plain_ticks(axes, [0.0, limit / 2, *_round_numbers(limit, max(heights))])
    return limit


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2 and 5 times powers of ten that is not below the value."""
    power = 10.0 ** math.floor(math.log10(value))
    # The tolerance is for values that are such a number themselves.
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def _plain_ticks(axes: "Axes", places: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_yticks(places, [f"{place:.10g}" for place in places])
    axes.yaxis.set_minor_locator(NullLocator())


def around_zero(values: Sequence[float]) -> Any:
    """Return a norm of colours that is symmetric around zero, with white for no change."""
    from matplotlib.colors import Normalize, SymLogNorm

    most = max(map(abs, values)) or 1.0
    if wide(values):
        return SymLogNorm(linthresh=_linear_until(values), vmin=-most, vmax=most)
    return Normalize(-most, most)


def wide(increases: Sequence[float]) -> bool:
    """Whether a linear scale of these increases would show little but the largest."""
    return max(map(abs, increases)) > WIDE_INCREASES * _linear_until(increases)


def _linear_until(increases: Sequence[float]) -> float:
    """Return the power of ten above the median size of the increases other than zero."""
    sizes = sorted(abs(value) for value in increases if value) or [1.0]
    return 10.0 ** math.ceil(math.log10(sizes[len(sizes) // 2]))
