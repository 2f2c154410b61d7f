"""Settings of a tuning; torch is not imported, so that settings load without it."""

from dataclasses import asdict, dataclass
from typing import Any

from tasks.core.errors import InputError

SCHEDULES = ("cosine", "linear", "constant")
# How several devices tune one model: its blocks one after another, a copy on each, or a shard of each block on each.
# This is not a setting of a tuning and not part of any key. As with threads and kinds of device, only the order of sums
# differs (and with dropout, the dropped values), and a result from one GPU is not computed again on eight.
PARALLEL = ("layers", "data", "sharded")
# Settings that decide how often progress is saved, whether activations are kept and whether divergence ends a run, but
# not what is computed.
NOT_CONTENT = ("checkpoint_steps", "gradient_checkpointing", "may_diverge")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one tuning. Give either num_steps or num_epochs.

    batch_size: in rows; max_tokens: in padded tokens of a forward pass.
    eval_steps: steps between validations, the best of which decides the kept state; None keeps the last state.
    patience: number of validations in a row without a better loss after which the tuning ends; None runs all steps.
    gradient_checkpointing: compute activations a second time in the backward pass instead of keeping them.
    may_diverge: the best of several tunings is taken, so that divergence of this one is a result, not an error.

    Raises:
        InputError: when a value is missing, unknown or out of range.
    """

    learning_rate: float
    num_steps: int | None = None
    num_epochs: int | None = None
    batch_size: int = 32
    max_tokens: int = 8192
    warmup_steps: int = 0
    schedule: str = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    eval_steps: int | None = None
    checkpoint_steps: int = 50
    seed: int = 0
    patience: int | None = None
    gradient_checkpointing: bool = False
    may_diverge: bool = False

    def __post_init__(self) -> None:
        if (self.num_steps is None) == (self.num_epochs is None):
            raise InputError("tune: give either num_steps or num_epochs")
        if self.schedule not in SCHEDULES:
            raise InputError(f"tune.schedule = {self.schedule!r}; choose from {', '.join(SCHEDULES)}")
        for name in ("learning_rate", "num_steps", "num_epochs", "batch_size", "clip_norm", "eval_steps", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"tune.{name} = {value}; it must be larger than 0")
        if self.patience is not None and self.eval_steps is None:
            raise InputError("tune.patience counts validations: give tune.eval_steps as well")

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result."""
        unused = NOT_CONTENT if self.patience is not None else (*NOT_CONTENT, "patience")
        return {name: value for name, value in asdict(self).items() if name not in unused}
