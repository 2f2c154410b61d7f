"""Number of steps of a tuning, and its learning-rate schedule."""

import math

from tasks.core.batching import steps_per_epoch
from tasks.core.tuning.settings import TrainSettings


def num_training_steps(settings: TrainSettings, num_rows: int) -> int:
    """Number of optimizer steps of the whole tuning."""
    if settings.num_steps is not None:
        return settings.num_steps
    assert settings.num_epochs is not None
    return settings.num_epochs * steps_per_epoch(num_rows, settings.batch_size)


def learning_rate_factor(settings: TrainSettings, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0: linear warm-up, then the schedule down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
