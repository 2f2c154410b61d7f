"""Settings for compressing an emulator's frozen blocks; torch is not imported, so that settings load without it."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from tasks.core.errors import InputError

# The settings that each method uses.
METHODS = {"prune": ("ratio",), "quantise": ("bits",), "low_rank": ("rank", "rank_choice", "seed")}
RANK_CHOICES = ("topk", "sampling", "lowrank")
MAX_BITS = 16


@dataclass(frozen=True)
class Compression:
    """One of three compression methods (Offsite-Tuning and CRaSh compare with all of them).

    prune: the smallest entries of each weight, a share of `ratio`, become zero. quantise: each weight has at most
    2^`bits` values. low_rank: each linear weight is the product of two factors of rank `rank`, a number or a share of
    the full rank; `rank_choice` decides which singular values are kept, `seed` is for the choices that draw.

    Raises:
        InputError: when a value is missing, unknown or out of range.
    """

    method: str
    ratio: float | None = None
    bits: int | None = None
    rank: int | float | None = None
    rank_choice: str = "topk"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"compress.method = {self.method!r}; choose from {', '.join(METHODS)}")
        needed = METHODS[self.method][0]
        if getattr(self, needed) is None:
            raise InputError(f'compress.method = "{self.method}" needs compress.{needed}')
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise InputError(f"compress.ratio = {self.ratio}: it must be larger than 0 and smaller than 1")
        if self.bits is not None and not 1 <= self.bits <= MAX_BITS:
            raise InputError(f"compress.bits = {self.bits}: choose from 1 to {MAX_BITS}")
        if self.rank is not None and not (0 < self.rank < 1 or (self.rank >= 1 and self.rank == int(self.rank))):
            raise InputError(f"compress.rank = {self.rank}: a whole number from 1, or a share of the full rank below 1")
        if self.rank_choice not in RANK_CHOICES:
            raise InputError(f"compress.rank_choice = {self.rank_choice!r}; choose from {', '.join(RANK_CHOICES)}")

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result, without those that only other methods use."""
        used = ("method", *METHODS[self.method])
        if self.method == "low_rank" and self.rank_choice == "topk":
            used = ("method", "rank", "rank_choice")
        return {name: value for name, value in asdict(self).items() if name in used}


def part_of(share: float, whole: int) -> int:
    """Share of a whole number, rounded down in decimal arithmetic: 0.29 of 100 is 29, not floor(28.999...)."""
    return int(Fraction(str(share)) * whole)


def rank_within(rank: int | float, num_in: int, num_out: int) -> int:
    """Rank for a weight with these dimensions, at most the full rank. rank: a number, or a share of the full rank.

    Raises:
        InputError: when the rank rounds down to 0.
    """
    full = min(num_in, num_out)
    found = min(int(rank), full) if rank >= 1 else part_of(rank, full)
    if found < 1:
        raise InputError(
            f"compress.rank = {rank}: of a weight of {num_out} x {num_in} that is rank 0; take at least {1 / full:.2g}"
        )
    return found


def is_worth_two(rank: int, num_in: int, num_out: int) -> bool:
    """Return whether two factors are smaller, and so cheaper to run, than their product."""
    return rank * (num_in + num_out) < num_in * num_out
