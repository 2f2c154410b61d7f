"""The settings that decide plans: strategies, budget, placement, sharing."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from flows.settings.group import Group
from tasks.core.plan.layout import HARMONIZERS, Sharing
from tasks.core.plan.placement import Placement
from tasks.core.plan.registry import STRATEGIES

if TYPE_CHECKING:
    Strategy = str
else:
    # All strategies of the registry: forms, help and messages list them from here.
    Strategy = Literal[tuple(STRATEGIES)]
Share = Literal["auto", "none", Sharing]


class PlanSettings(Group, frozen=True):
    """The plan: which blocks the emulator keeps, which of them are tuned, and which are shared."""

    num_kept: PositiveInt
    """Number of blocks the emulator keeps (clusters, for crash)."""
    num_tuned: PositiveInt = 4
    """Number of kept blocks that the data owner tunes."""
    placement: Literal["auto", Placement] = "auto"
    """Tuned blocks: the outer ones, evenly spaced kept ones, or those of `tuned`; auto: each strategy's default."""
    linkage: Literal["boundary", "average", "complete", "optimal"] = "boundary"
    """Rule by which clusters merge; boundary is the published one. `single` has average (its default) and complete."""
    share: Share | dict[Strategy, Share] = "auto"
    """Stand-in for removed blocks: none, nearest kept or frozen one, linear map, or harmonizers; auto: by strategy."""
    keep_ends: bool = False
    """Make the first and the last block the centres of their clusters (crash)."""
    deviation: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    """Share of the blocks that `uniform_deviation` leaves out at the start, or if negative at the end."""
    seed: int = 0
    """Seed of strategies that draw blocks."""
    kept: tuple[int, ...] = ()
    """Kept blocks of the strategy `fixed`."""
    tuned: tuple[int, ...] = ()
    """Tuned blocks of the strategy `fixed`, and with placement explicit, in place of num_tuned."""

    @field_validator("share", mode="before")
    @classmethod
    def _known_shares(cls, value: Any) -> Any:
        """Give one message instead of one for each type of the union."""
        given = value if isinstance(value, dict) else {"crash": value}
        if unknown := next((name for name in given if name not in get_args(Strategy)), None):
            raise ValueError(f"{unknown} is not a strategy; choose from {', '.join(get_args(Strategy))}")
        if wrong := [share for share in given.values() if share not in get_args(Share)]:
            choices = ", ".join(get_args(Share))
            raise ValueError(f"{wrong[0]!r} is not a way to share; choose from {choices}, or give a table by strategy")
        return value

    @model_validator(mode="after")
    def _tuned_are_kept(self) -> "PlanSettings":
        if self.placement == "explicit":
            if not self.tuned:
                raise ValueError('placement = "explicit" needs plan.tuned; or choose from auto, ends, centres')
        elif self.num_tuned > self.num_kept:
            raise ValueError(
                f"num_tuned = {self.num_tuned} but num_kept = {self.num_kept}: tune at most as many as are kept"
            )
        return self

    @property
    def num_tuned_blocks(self) -> int:
        """Number of tuned blocks, for every placement."""
        return len(self.tuned) if self.placement == "explicit" else self.num_tuned

    def share_of(self, strategy: Strategy) -> Share:
        """Return the sharing of one strategy."""
        return self.share.get(strategy, "auto") if isinstance(self.share, dict) else self.share

    def is_harmonized(self, strategy: Strategy) -> bool:
        """Return whether harmonizers run in the place of the blocks that a strategy removes."""
        share = self.share_of(strategy)
        return (STRATEGIES[strategy].share if share == "auto" else share) == HARMONIZERS

    def needs_harmonizers(self, strategy: Strategy) -> bool:
        """Return whether harmonizers are trained for a strategy: for its emulator, or with the scores for its plan."""
        return STRATEGIES[strategy].needs == "block_scores" or self.is_harmonized(strategy)
