"""Which row of the papers' tables a strategy of these settings is, if it is one."""

from flows.settings import Settings, Strategy

# Published without sharing, which is also what `auto` is for them.
UNSHARED: tuple[Strategy, ...] = ("uniform", "uniform_spread")


def published_as(settings: Settings) -> dict[str, str]:
    """Strategy to its name in `tasks.core.published`; what was changed in another way than the papers is left out."""
    values = settings.model_dump()
    plan = values["plan"]
    distilled = values.get("distill", {}).get("enabled", False)
    if values.get("compress", {}).get("method", "none") != "none" or plan.get("placement", "auto") != "auto":
        return {}
    if distilled:
        return {"uniform": "distilled"}
    share_of = settings.plan.share_of
    known: dict[str, str] = {name: name for name in UNSHARED if share_of(name) in ("auto", "none")}
    ours = (values["similarity"]["estimator"], plan["linkage"], plan["keep_ends"])
    if ours == ("linear_cka", "boundary", False):
        names = {"auto": "crash", "all": "crash", "none": "crash without sharing"}
        known |= {"crash": names[share_of("crash")]} if share_of("crash") in names else {}
    return {name: row for name, row in known.items() if name in settings.strategy}
