"""Settings for compressing an emulator's frozen blocks; torch is not imported, so that settings load without it."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from tasks.core.bounds import Bounds, check_fields
from tasks.core.errors import SettingError

# The settings that each method uses.
METHODS = {
    "prune": ("ratio",),
    "quantise": ("bits",),
    "low_rank": ("rank", "rank_choice", "seed", "parts"),
    "gradot": ("rank", "channels", "loss_weight"),
}
# The settings that a method requires.
NEEDED = {"prune": ("ratio",), "quantise": ("bits",), "low_rank": ("rank",), "gradot": ("rank", "channels")}
MAX_BITS = 16


@dataclass(frozen=True)
class CompressOptions:
    """Options of the compression of an emulator's frozen blocks, as a user may set them."""

    method: Literal["none", "prune", "quantise", "low_rank", "gradot"] = "none"
    """Magnitude pruning, fake quantisation, linear weights as two low-rank factors, or GradOT's choice by gradients."""
    ratio: Annotated[float, Bounds(gt=0, lt=1)] | None = None
    """Share of each weight's entries that become zero (prune)."""
    bits: Annotated[int, Bounds(ge=1, le=MAX_BITS)] | None = None
    """Each weight has at most 2^bits values (quantise)."""
    rank: Annotated[int, Bounds(ge=1)] | Annotated[float, Bounds(gt=0, lt=1)] | None = None
    """Rank of factors, or its share of the full rank (low_rank, gradot); weights that would not shrink stay dense."""
    parts: Literal["all", "attention"] = "all"
    """Linear weights that are factorised: all, or those outside the feed-forward part, as in ScaleOT (low_rank)."""
    rank_choice: Literal["topk", "sampling", "lowrank"] = "topk"
    """Which singular values are kept: the largest, drawn ones, or those of the randomised SVD (low_rank)."""
    seed: int = 0
    """Seed of the rank choices that draw."""
    channels: Annotated[float, Bounds(gt=0, lt=1)] | None = None
    """Share of the channels that each feed-forward part keeps (gradot)."""
    loss_weight: Annotated[float, Bounds(ge=0)] = 0.1
    """Weight of a rising loss beside unchanged gradients in the choice; 0 looks at gradients alone (gradot)."""


@dataclass(frozen=True)
class Compression(CompressOptions):
    """A compression method: one of three with which Offsite-Tuning and CRaSh compare, or GradOT (arXiv 2507.04455).

    prune: the smallest entries of each weight, a share of `ratio`, become zero. quantise: each weight has at most
    2^`bits` values. low_rank: each linear weight is the product of two factors of rank `rank`, a number or a share of
    the full rank, in all linear modules or in those outside the feed-forward part, which is found by its shapes
    (`parts`); `rank_choice` decides which singular values are kept, `seed` is for the choices that draw. gradot: the
    feed-forward parts keep a share of `channels` of their channels, and the other linear weights are two factors of
    rank `rank`, so that the gradients of the tuned blocks change little and the loss rises (`loss_weight`).

    Raises:
        SettingError: when a value is missing, unknown or out of range.
    """

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError(f"`method` = {self.method!r}; choose from {', '.join(METHODS)}")
        for needed in NEEDED[self.method]:
            if getattr(self, needed) is None:
                raise SettingError(f'`method` = "{self.method}" needs `{needed}`')
        check_fields(self)

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result, without those that only other methods use."""
        used = {"method", *METHODS[self.method]}
        if self.rank_choice == "topk":
            used -= {"seed"}
        if self.parts == "all":
            used -= {"parts"}
        return {name: value for name, value in asdict(self).items() if name in used}


def part_of(share: float, whole: int) -> int:
    """Share of a whole number, rounded down in decimal arithmetic: 0.29 of 100 is 29, not floor(28.999...)."""
    return int(Fraction(str(share)) * whole)


def rank_within(rank: int | float, num_in: int, num_out: int) -> int:
    """Rank for a weight with these dimensions, at most the full rank. rank: a number, or a share of the full rank.

    Raises:
        SettingError: when the rank rounds down to 0.
    """
    full = min(num_in, num_out)
    found = min(int(rank), full) if rank >= 1 else part_of(rank, full)
    if found < 1:
        raise SettingError(
            f"`rank` = {rank}: of a weight of {num_out} x {num_in} that is rank 0; take at least {1 / full:.2g}"
        )
    return found


def is_worth_two(rank: int, num_in: int, num_out: int) -> bool:
    """Return whether two factors are smaller, and so cheaper to run, than their product."""
    return rank * (num_in + num_out) < num_in * num_out


def channels_within(share: float, count: int) -> int:
    """Number of channels to keep of `count`: a share of them, rounded down, and at least one."""
    return max(1, part_of(share, count))
