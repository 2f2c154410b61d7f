"""Select: of tunings at several learning rates, the one that is best by validation with the emulator."""

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.store.stage import stage
from tasks.store.work import Work


@stage(packages=(), code=("tasks.store.returned",))
def select(work: Work, *, tunings: list[Ref], learning_rates: list[float]) -> dict:
    """The files of the tuning with the lowest validation loss, of equals the first, and its summary.

    The summary says its `learning_rate`, and the loss of each as `validation_loss_at_{rate}`; `all_seconds` is what
    all of them took. Errors: InputError for a tuning that was not validated.
    """
    import shutil

    from tasks.store.returned import FILES
    from tasks.store.work import METRICS_FILE

    losses = []
    for rate, ref in zip(learning_rates, tunings, strict=True):
        if (loss := ref.summary.get("best_validation_loss")) is None:
            raise InputError(
                f"the tuning at learning rate {rate:g} was not validated, so that none can be chosen; give"
                " tune.eval_steps, and a task with validation rows"
            )
        losses.append(loss)
    best = min(range(len(losses)), key=losses.__getitem__)
    folder = work.open(tunings[best])
    for name in FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, work.out / name)
    if (folder / METRICS_FILE).exists():
        # Its curves are shown as those of the tuning.
        shutil.copyfile(folder / METRICS_FILE, work.scratch / METRICS_FILE)
    return {
        **tunings[best].summary,
        "learning_rate": learning_rates[best],
        "all_seconds": round(sum(ref.summary["seconds"] for ref in tunings), 3),
        **{f"validation_loss_at_{rate:g}": loss for rate, loss in zip(learning_rates, losses, strict=True)},
    }
