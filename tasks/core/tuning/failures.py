"""What is said of a tuning that ends before its last step: why, after which step, what is kept, and what to do."""

import math
from dataclasses import dataclass

from tasks.core.errors import DivergedError, EnvironmentFault
from tasks.core.tuning.state import Progress


@dataclass(frozen=True)
class Names:
    """How the settings of a training are called, where a user would change them."""

    learning_rate: str = "tune.learning_rate"
    max_tokens: str = "tune.max_tokens"


def not_finite(**values: float) -> str | None:
    """The name of the first number that is not finite."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)


def diverged(names: Names, what: str, learning_rate: float, progress: Progress, where: str = "") -> DivergedError:
    """A number that is not finite. where: numbers of the rows it came from, never the rows."""
    rows, look = (f", {where}", ", or look at those rows") if where else ("", "")
    return DivergedError(
        f"{what}, learning rate {learning_rate:.3g}{rows}; {_kept(progress)}. Lower {names.learning_rate}{look}"
    )


def out_of_memory(names: Names, progress: Progress, num_steps: int) -> EnvironmentFault:
    """Memory that did not suffice, for the second time where it could be tried twice."""
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
