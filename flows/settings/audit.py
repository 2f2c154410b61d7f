"""The settings of the recovery audit (`crash audit`): fills, positions, and what they are measured on."""

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from flows.settings.group import Group
from tasks.core.bounds import Positive
from tasks.core.plan.hidden import POSITIONS, Position

Fill = Literal["nearest", "linear", "trained", "distilled"]
FILLS: tuple[Fill, ...] = get_args(Fill)


class Audit(Group, frozen=True):
    """The recovery audit (`crash audit`): how much of the model comes back when hidden blocks are filled in."""

    fills: Annotated[tuple[Fill, ...], Field(min_length=1)] = FILLS
    """Copies of the nearest kept block; linear maps; copies trained on text alone; copies trained with the model."""
    positions: tuple[Position, ...] = POSITIONS
    """Also hide as many blocks in one run, at these places; none: audit the emulators of the settings alone."""
    num_documents: PositiveInt = 64
    """Validation documents of distill.data on which losses are measured, the first ones."""
    num_steps: PositiveInt = 100
    """Optimizer steps with which copies are trained: what filling in may cost."""
    batch_size: PositiveInt = 8
    """Windows of distill.block tokens in one optimizer step."""
    learning_rate: Positive = 3e-4
    """Peak learning rate of AdamW; cosine, after a warm-up of a tenth of the steps."""

    @field_validator("fills", "positions", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _each_once(self) -> "Audit":
        for name in ("fills", "positions"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} = {list(given)} names one twice")
        return self
