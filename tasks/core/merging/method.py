"""Methods that merge the tunings of several data owners; torch is not imported, so that commands load without it."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.core.errors import SettingError

MergeName = Literal["mean", "trimmed-mean", "median", "ties"]
MERGES: tuple[MergeName, ...] = get_args(MergeName)
# Of the values at each end (one of five data owners), and of each tuning's changes (Yadav et al. 2023, section 4).
LEFT_OUT: dict[MergeName, float] = {"trimmed-mean": 0.2, "ties": 0.8}
# A share of a whole number of tunings may be a little less than that number: 0.29 * 100 is 28.999999999999996.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Merging:
    """Method that merges tunings, and its options.

    method: "mean" is the weighted mean of the changes (McMahan et al. 2017, federated averaging), "trimmed-mean" leaves
    out the largest and the smallest values of each parameter (Yin et al. 2018), "median" is that of each parameter (Yin
    et al. 2018), "ties" keeps the largest changes of each tuning and averages those that agree in sign (Yadav et al.
    2023).
    weights: of "mean", one for each tuning, for example its number of rows; equal where there are none. trim: share
    that is left out; of "trimmed-mean" of the values at each end, 0.2 by default, of "ties" of the smallest changes of
    each tuning, 0.8 by default.

    Raises:
        SettingError: when the method is unknown, or an option is out of range or not one of the method.
    """

    method: MergeName
    weights: tuple[float, ...] = ()
    trim: float | None = None

    def __post_init__(self) -> None:
        if self.method not in MERGES:
            raise SettingError(f"`merge` = {self.method!r}; choose from {', '.join(MERGES)}")
        if self.weights and self.method != "mean":
            raise SettingError(f'`weights` are for `merge` = "mean" only, not for "{self.method}"')
        if not all(0 < weight < math.inf for weight in self.weights):
            raise SettingError(f"`weights` = {_numbers(self.weights)}; each must be larger than 0 and finite")
        if self.trim is not None and self.method not in LEFT_OUT:
            raise SettingError(f'`trim` is for `merge` = "trimmed-mean" and "ties" only, not for "{self.method}"')
        if self.trim is not None and not 0 < self.trim < (0.5 if self.method == "trimmed-mean" else 1):
            raise SettingError(f'`trim` = {self.trim}; of "trimmed-mean" it lies between 0 and 0.5, of "ties" 0 and 1')

    @property
    def left_out(self) -> float:
        """The share that is left out: `trim`, or the method's default; 0 for methods without."""
        return LEFT_OUT.get(self.method, 0.0) if self.trim is None else self.trim

    def num_trimmed(self, num_tunings: int) -> int:
        """Return how many values of each parameter are left out at each end."""
        if self.method == "median":
            return (num_tunings - 1) // 2
        return int(self.left_out * num_tunings + ROUNDING) if self.method == "trimmed-mean" else 0

    def require_fits(self, num_tunings: int) -> None:
        """Check that so many tunings can be merged so.

        Raises:
            SettingError: when the number of weights is another one, or nothing would be left out at the ends.
        """
        if self.weights and len(self.weights) != num_tunings:
            raise SettingError(f"`weights` has {len(self.weights)} numbers, and there are {num_tunings} tunings")
        if self.method in ("trimmed-mean", "median") and self.num_trimmed(num_tunings) == 0:
            raise SettingError(
                f'`merge` = "{self.method}" leaves out nothing of {num_tunings} tunings'
                + (f" with `trim` = {self.left_out:g}" if self.method == "trimmed-mean" else ", so that it is the mean")
                + ': take more tunings, or "mean"'
            )

    def describe(self, num_tunings: int) -> str:
        """Return method and options in words."""
        if self.method == "mean":
            return f"mean of {num_tunings}" + (f", weights {_numbers(self.weights)}" if self.weights else "")
        if self.method == "ties":
            return f"ties of {num_tunings}, the largest {1 - self.left_out:.0%} of the changes of each"
        trimmed = self.num_trimmed(num_tunings)
        return f"{self.method} of {num_tunings}; {trimmed} at each end of every parameter do not count"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
