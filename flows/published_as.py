"""Which row of the papers' tables a strategy of these settings is, if it is one."""

from flows.arguments import plan_options
from flows.settings import Settings


def published_as(settings: Settings) -> dict[str, str]:
    """Strategy to its name in `tasks.core.published`; what was changed in another way than the papers is left out."""
    values = settings.model_dump()
    plan = values["plan"]
    distilled = values.get("distill", {}).get("enabled", False)
    if values.get("compress", {}).get("method", "none") != "none" or plan.get("placement", "auto") != "auto":
        return {}
    if distilled:
        return {"uniform": "distilled"}
    shares = {name: plan_options(settings, name)["share"] for name in settings.strategy}
    known = {name: name for name in ("uniform", "uniform_spread") if shares.get(name, "all") is None}
    ours = (values["similarity"]["estimator"], plan["linkage"], plan["keep_ends"])
    if ours == ("linear_cka", "boundary", False):
        names = {"all": "crash", None: "crash without sharing"}
        known |= {"crash": names[shares["crash"]]} if shares.get("crash", "") in names else {}
    return known
