"""The row of the papers' tables to which a strategy of these settings corresponds, if any."""

from flows.settings.plan import Strategy
from flows.settings.run import Settings
from flows.settings.tables import Support

# Settings of the support set that change no plan, or follow from the task.
FREE_SUPPORT = {"max_tokens", "split"}


def published_as(settings: Settings) -> dict[str, str]:
    """Map each strategy that the papers have, and `full`, to its name in `tasks.core.evaluation.paper_results`."""
    task = settings.task
    if any((task.num_train, task.num_validation, task.num_test)):
        return {}
    # Published scores are zero-shot, of lm-eval's plain prompts.
    if settings.evaluate.num_fewshot or task.template == "chat":
        return {}
    known: dict[str, str] = {name: row for name, row in _strategies(settings).items() if name in settings.strategy}
    return {"full": "full", **known}


def _strategies(settings: Settings) -> dict[str, str]:
    plan, distill = settings.plan, settings.distill
    if not settings.tune.tuning_method.is_default or settings.compress.method != "none" or plan.placement != "auto":
        return {}
    unshared: tuple[Strategy, ...] = ("uniform", "uniform_spread")
    plain: dict[str, str] = {name: name for name in unshared if plan.share_of(name) in ("auto", "none")}
    if distill.enabled:
        return {"uniform": "distilled"} if "uniform" in plain and distill.teacher is None else {}
    return plain | _crash(settings)


def _crash(settings: Settings) -> dict[str, str]:
    plan, support = settings.plan, settings.support
    if (settings.similarity.estimator, plan.linkage, plan.keep_ends) != ("linear_cka", "boundary", False):
        return {}
    if support.model_dump(exclude=FREE_SUPPORT) != Support().model_dump(exclude=FREE_SUPPORT):
        return {}
    rows = {"all": "crash", "auto": "crash without sharing", "none": "crash without sharing"}
    share = plan.share_of("crash")
    return {"crash": rows[share]} if share in rows else {}
