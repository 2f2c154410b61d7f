"""Errors of a tuning that ends before its last step; they say why, at which step, what is kept, and what to do."""

import math
from dataclasses import dataclass

from tasks.core.errors import DivergedError, EnvironmentFault
from tasks.core.tuning.state import Progress


@dataclass(frozen=True)
class Names:
    """Names of a training's settings for error messages, as a user would change them."""

    learning_rate: str = "learning_rate"
    max_tokens: str = "max_tokens"


def not_finite(**values: float) -> str | None:
    """Return the name of the first number that is not finite, or None."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)


def diverged(names: Names, what: str, learning_rate: float, progress: Progress, where: str = "") -> DivergedError:
    """Make the error for a number that is not finite. where: indices of its rows, never their contents."""
    rows, look = (f", {where}", ", or look at those rows") if where else ("", "")
    return DivergedError(
        f"{what}, learning rate {learning_rate:.3g}{rows}; {_kept(progress)}. Lower {names.learning_rate}{look}"
    )


def out_of_memory(names: Names, progress: Progress, num_steps: int) -> EnvironmentFault:
    """Make the error for a pass that ran out of memory, also after its size was halved where that is possible."""
    limit = progress.max_tokens
    again = f", although forward passes were halved to {limit} tokens" if limit else ""
    return EnvironmentFault(
        f"out of memory after {progress.step} of {num_steps} steps{again}; {_kept(progress)}. Lower {names.max_tokens}"
        ' or plan.num_tuned, take more GPUs (place.gpus_per_stage, with place.parallel = "layers" or "sharded"), or'
        ' compute in model.precision = "bfloat16"'
    )


def _kept(progress: Progress) -> str:
    saved = progress.saved_step
    return f"the checkpoint of step {saved} is untouched" if saved else "no checkpoint was written yet"
