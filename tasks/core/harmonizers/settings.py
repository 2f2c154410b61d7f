"""Settings of harmonizers and of the scores of blocks; torch is not imported, so that settings load without it."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from tasks.core.bounds import Bounds, Count, Positive, check_fields
from tasks.core.compression.settings import part_of
from tasks.core.errors import SettingError
from tasks.core.tuning.settings import StepOptions, TrainSettings

# The settings that decide neither the harmonizers nor the scores.
NOT_CONTENT = ("share", "checkpoint_steps")


@dataclass(frozen=True)
class HarmonizerOptions(StepOptions):
    """Options of the training of harmonizers and of the blocks' scores on generic text (ScaleOT)."""

    num_steps: Count = 1000
    """Optimizer steps, each with other blocks replaced."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW; cosine."""
    batch_size: Count = 32
    """Windows of one optimizer step."""
    warmup_steps: Annotated[int, Bounds(ge=0)] = 50
    """Steps of linear warm-up."""
    rank: Count = 64
    """Width inside a harmonizer."""
    share: Annotated[float, Bounds(gt=0, le=1)] = 1.0
    """Share of the removed blocks that get their harmonizer, those with the highest scores; others are only removed."""
    group_size: Annotated[int, Bounds(ge=2)] = 4
    """Least number of neighbouring blocks of which one half is replaced in every step (the smaller half)."""
    score_steps: Count = 10
    """Steps between two updates of the scores."""
    score_rows: Count = 8
    """Windows of validation text on which an update compares three choices of blocks."""
    score_learning_rate: Positive = 10.0
    """Step size of the scores."""
    seed: int = 0
    """Seed of initial values, of the order of windows and of the choices of blocks."""


@dataclass(frozen=True)
class Harmonizing(HarmonizerOptions):
    """Settings of one training of harmonizers and scores.

    Raises:
        SettingError: when a value is out of range, or warm-up or the steps between two scores take all steps.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        if self.warmup_steps >= self.num_steps:
            raise SettingError(
                f"`warmup_steps` = {self.warmup_steps} but `num_steps` = {self.num_steps}: the learning rate would"
                " never be reached; take fewer warm-up steps"
            )
        if self.score_steps > self.num_steps:
            raise SettingError(
                f"`score_steps` = {self.score_steps} but `num_steps` = {self.num_steps}: the scores would never be"
                " updated, so that all blocks have the same; take fewer steps between two updates"
            )

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_CONTENT}

    @property
    def training(self) -> TrainSettings:
        """The settings of its training loop."""
        shared = {field.name: getattr(self, field.name) for field in fields(StepOptions)}
        return TrainSettings(**shared, seed=self.seed)


def num_harmonized(num_removed: int, share: float) -> int:
    """Number of removed blocks that get their harmonizer: a share of them, rounded down, but at least one."""
    return max(1, part_of(share, num_removed)) if num_removed else 0
