"""How the frozen blocks of an emulator are made cheaper; no torch here, so that settings can be read without it."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from tasks.core.errors import InputError

# What each method looks at.
METHODS = {"prune": ("ratio",), "quantise": ("bits",), "low_rank": ("rank", "rank_choice", "seed")}
RANK_CHOICES = ("topk", "sampling", "lowrank")
MAX_BITS = 16


@dataclass(frozen=True)
class Compression:
    """One of three methods (Offsite-Tuning and CRaSh compare with all of them).

    prune: the share `ratio` of each weight's entries that are smallest becomes zero. quantise: each weight has at most
    2^`bits` values. low_rank: each linear weight is a product of two of rank `rank`, a number or a share of the full
    rank; `rank_choice` says which singular values stay, `seed` is for the choices that draw. InputError if impossible.
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
        """What decides the result: what other methods look at does not."""
        used = ("method", *METHODS[self.method])
        if self.method == "low_rank" and self.rank_choice == "topk":
            used = ("method", "rank", "rank_choice")
        return {name: value for name, value in asdict(self).items() if name in used}


def part_of(share: float, whole: int) -> int:
    """The share of a whole number, rounded down in decimals: 0.29 of 100 is 29, not floor(28.999...)."""
    return int(Fraction(str(share)) * whole)


def rank_within(rank: int | float, num_in: int, num_out: int) -> int:
    """The rank that is asked for of a weight with these sides: at most the full one. InputError if it is 0."""
    full = min(num_in, num_out)
    found = min(int(rank), full) if rank >= 1 else part_of(rank, full)
    if found < 1:
        raise InputError(
            f"compress.rank = {rank}: of a weight of {num_out} x {num_in} that is rank 0; take at least {1 / full:.2g}"
        )
    return found


def is_worth_two(rank: int, num_in: int, num_out: int) -> bool:
    """Whether two factors are smaller, and so cheaper to run, than their product."""
    return rank * (num_in + num_out) < num_in * num_out
