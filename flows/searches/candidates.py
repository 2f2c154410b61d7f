"""The candidates of a search: every combination of its lists, with the reason if one is left out before it runs."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.running.arguments import Arguments
from flows.running.inputs import check_budget
from flows.settings.kinds import SearchSettings
from tasks.core.errors import InputError

if TYPE_CHECKING:
    from tasks.core.costs.sizes import Sizes
    from tasks.models.source import ModelSource

LISTS = ("strategy", "num_kept", "num_tuned", "share")


@dataclass(frozen=True)
class Candidate:
    """One combination of a search's lists.

    values: the values that its plan depends on; settings: of a run with this plan alone, None for an impossible one;
    disclosed: lower bound of the disclosed share of the full model's parameters; reason: why it is left out.
    """

    name: str
    values: dict[str, Any]
    settings: SearchSettings | None
    disclosed: float | None = None
    reason: str | None = None


def sizes_of(model: "ModelSource") -> "Sizes":
    """Return the numbers of parameters of the model's parts, from its config."""
    from tasks.core.costs.sizes import model_sizes
    from tasks.models.folder import load_config

    return model_sizes(load_config(Path(model.path)))


def make_candidates(settings: SearchSettings, sizes: "Sizes") -> list[Candidate]:
    """Return every distinct combination; those that are impossible or disclose too much have a reason.

    Raises:
        InputError: when no plan can be tried (the message names the least that can be disclosed), or emulators are
            compressed by low_rank or gradot, or have harmonizers.
    """
    if settings.compress.method in ("low_rank", "gradot"):
        raise InputError(
            f'compress.method = "{settings.compress.method}" in a search: what such an emulator discloses does not'
            " follow from its plan; search without it, then run the best plan with it"
        )
    _refuse_harmonizers(settings)
    found: dict[str, Candidate] = {}
    for values in combinations(settings):
        identity, candidate = _candidate(settings, values, sizes)
        found.setdefault(identity, candidate)
    if all(candidate.reason for candidate in found.values()):
        raise InputError(_refusal(settings, list(found.values()), sizes))
    return list(found.values())


def _refuse_harmonizers(settings: SearchSettings) -> None:
    shares = settings.search.share or (settings.plan.share,)
    for strategy in settings.search.strategy or settings.strategy:
        plans = (settings.plan.model_copy(update={"share": share}) for share in shares)
        if any(plan.needs_harmonizers(strategy) for plan in plans):
            raise InputError(
                f"strategy {strategy} with harmonizers in a search: what such an emulator discloses does not follow"
                ' from its plan; search without scaleot and plan.share = "harmonizers", then run the best plan with it'
            )


def combinations(settings: SearchSettings) -> Iterator[dict[str, Any]]:
    """Yield values of strategy, num_kept, num_tuned and share; for an empty list the value of the other settings."""
    search, plan = settings.search, settings.plan
    for strategy in search.strategy or settings.strategy:
        choices = (
            (strategy,),
            search.num_kept or (plan.num_kept,),
            search.num_tuned or (plan.num_tuned,),
            search.share or (plan.share_of(strategy),),
        )
        for chosen in itertools.product(*choices):
            yield dict(zip(LISTS, chosen, strict=True))


def snippet(settings: SearchSettings) -> str:
    """Return the strategy and the `[plan]` table of these settings as TOML for a settings file."""
    plan = settings.plan.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    plan |= {name: getattr(settings.plan, name) for name in LISTS[1:]}
    lines = [f"strategy = {json.dumps(list(settings.strategy))}", "", "[plan]"]
    # Numbers, strings, booleans and lists of them are written the same in JSON and in TOML.
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in plan.items()), ""])


def too_much(disclosed: float, limit: float) -> str:
    """Return the reason for leaving out a plan that discloses more than the limit."""
    return f"discloses {disclosed:.1%} of the parameters, more than search.max_disclosed = {limit:.1%}"


def _candidate(settings: SearchSettings, values: dict[str, Any], sizes: "Sizes") -> tuple[str, Candidate]:
    """Return an identity that equal combinations share, and the candidate."""
    num_blocks, limit = len(sizes.blocks), settings.search.max_disclosed
    # A value that the strategy does not use does not make another plan.
    looked_at = Arguments(settings, "float32").cluster(values["strategy"], num_blocks, None)
    used = {name: value for name, value in values.items() if name in looked_at}
    try:
        changed = _changed(settings, used)
        check_budget(changed, num_blocks)
    except InputError as error:
        return repr(used), Candidate(_name(used), used, None, reason=str(error))
    arguments = Arguments(changed, "float32").cluster(values["strategy"], num_blocks, None)
    # Values as the strategy resolves them: named blocks are counted, and `auto` is replaced by its meaning.
    counted = {"num_kept": "kept", "num_tuned": "tuned"}
    used |= {name: len(arguments[blocks]) for name, blocks in counted.items() if arguments.get(blocks)}
    used |= {"share": arguments["share"] or "none"}
    kept = arguments.get("kept")
    disclosed = sizes.disclosed(kept) if kept else sizes.least(used["num_kept"])
    reason = too_much(disclosed, limit) if disclosed > limit else None
    identity = repr(sorted(arguments.items(), key=lambda item: item[0]))
    return identity, Candidate(_name(used), used, changed, disclosed, reason)


def _name(values: dict[str, Any]) -> str:
    """Return a name such as `crash 6/4 all`: strategy, kept and tuned blocks, and sharing where the strategy has it."""
    budget = f"{values['num_kept']}/{values['num_tuned']}" if {"num_kept", "num_tuned"} <= values.keys() else None
    return " ".join(word for word in (values["strategy"], budget, values.get("share")) if word)


def _changed(settings: SearchSettings, values: dict[str, Any]) -> SearchSettings:
    """Return the settings of a run with this plan alone.

    Raises:
        InputError: when they are invalid.
    """
    whole = settings.model_dump(mode="json", exclude_unset=True)
    whole["strategy"] = [values["strategy"]]
    whole["plan"] = whole["plan"] | {name: value for name, value in values.items() if name != "strategy"}
    try:
        return SearchSettings.model_validate(whole)
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _refusal(settings: SearchSettings, candidates: list[Candidate], sizes: "Sizes") -> str:
    possible = [candidate for candidate in candidates if candidate.disclosed is not None]
    if not possible:
        return f"no plan can be searched; the first, {candidates[0].name}: {candidates[0].reason}"
    least = min(possible, key=lambda candidate: candidate.disclosed or 0.0)
    return (
        f"search.max_disclosed = {settings.search.max_disclosed:g}, but no plan of the search discloses so little: the"
        f" smallest, {least.name}, discloses {least.disclosed:.1%} of {settings.model.name}, and a single block with"
        f" embeddings and head {sizes.least(1):.1%}; allow more, or add smaller values to search.num_kept"
    )
