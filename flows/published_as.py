"""Which row of the papers' tables a strategy of these settings is, if it is one."""

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
    known = {"uniform": "uniform"} if plan["share"] in ("auto", "none") else {}
    known |= {"uniform_spread": "uniform_spread"}
    ours = (values["similarity"]["estimator"], plan["linkage"], plan["keep_ends"])
    if ours == ("linear_cka", "boundary", False):
        names = {"auto": "crash", "all": "crash", "none": "crash without sharing"}
        known |= {"crash": names[plan["share"]]} if plan["share"] in names else {}
    return {name: row for name, row in known.items() if name in settings.strategy}
