"""Which row of the papers' tables a strategy of these settings is, if it is one."""

from flows.plan_settings import Strategy
from flows.settings import Settings


def published_as(settings: Settings) -> dict[str, str]:
    """Strategy to its name in `tasks.core.published`; what was changed in another way than the papers is left out."""
    plan = settings.plan
    if (settings.tune.method, settings.tune.trained) != ("blocks", "tuned"):
        return {}
    if settings.compress.method != "none" or plan.placement != "auto":
        return {}
    if settings.distill.enabled:
        known = {"uniform": "distilled"} if plan.share_of("uniform") in ("auto", "none") else {}
    else:
        names: tuple[Strategy, ...] = ("uniform", "uniform_spread")
        known = {name: name for name in names if plan.share_of(name) in ("auto", "none")} | _crash(settings)
    return {name: row for name, row in known.items() if name in settings.strategy}


def _crash(settings: Settings) -> dict[str, str]:
    plan = settings.plan
    if (settings.similarity.estimator, plan.linkage, plan.keep_ends) != ("linear_cka", "boundary", False):
        return {}
    rows = {"auto": "crash", "all": "crash", "none": "crash without sharing"}
    share = plan.share_of("crash")
    return {"crash": rows[share]} if share in rows else {}
