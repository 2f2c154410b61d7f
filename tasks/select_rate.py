"""Select: choose among tunings at several learning rates by validation loss of the emulator."""

import math

from tasks.artifacts.tuning import TUNING_FILES, peak_memory, tuning_summary
from tasks.core.errors import DivergedError, InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=())
def select(work: Work, *, tunings: list[Ref], learning_rates: list[float]) -> dict:
    """Copy the files and the summary of the tuning with the lowest validation loss, of equals the first.

    A diverged tuning is worse than any other. The summary also has its `learning_rate`, the loss of each tuning that
    did not diverge as `validation_loss_at_{rate}`, `num_diverged`, the total time `all_seconds`, and as `peak_*` the
    maximum over all tunings.

    Raises:
        DivergedError: when all tunings diverged.
        InputError: when a tuning was not validated.
    """
    losses = [_validation_loss(rate, ref) for rate, ref in zip(learning_rates, tunings, strict=True)]
    found = {rate: loss for rate, loss in zip(learning_rates, losses, strict=True) if math.isfinite(loss)}
    if not found:
        first = tuning_summary(tunings[0])["diverged"]
        raise DivergedError(f"the tuning diverged at every learning rate of tune.learning_rates; the first: {first}")
    best = losses.index(min(losses))
    _copy_files(work, tunings[best])
    return {
        **tuning_summary(tunings[best]),
        "learning_rate": learning_rates[best],
        "num_diverged": len(losses) - len(found),
        **peak_memory(tunings),
        "all_seconds": round(sum(tuning_summary(ref)["seconds"] for ref in tunings), 3),
        **{f"validation_loss_at_{rate:g}": loss for rate, loss in found.items()},
    }


def _validation_loss(rate: float, tuning: Ref) -> float:
    """Return a tuning's lowest validation loss in nats per answer token, infinite if it diverged."""
    summary = tuning_summary(tuning)
    if "diverged" in summary:
        return math.inf
    if (loss := summary.get("best_validation_loss")) is None:
        raise InputError(
            f"the tuning at learning rate {rate:g} was not validated, so that none can be chosen; give"
            " tune.eval_steps, and a task with validation rows"
        )
    return loss


def _copy_files(work: Work, tuning: Ref) -> None:
    """Copy the tuning's files and its curves, which are shown as those of the selected tuning."""
    import shutil

    from tasks.store.metrics import METRICS_FILE

    folder = work.open(tuning)
    for name in TUNING_FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, work.out / name)
    if (folder / METRICS_FILE).exists():
        shutil.copyfile(folder / METRICS_FILE, work.scratch / METRICS_FILE)
