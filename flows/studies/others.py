"""Further tuned models for a study, found in the store and refused if another model was tuned."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings.kinds import StudySettings
from tasks.core.errors import InputError
from tasks.store.artifacts import Artifact, Ref, Store

if TYPE_CHECKING:
    from tasks.models.source import ModelSource

Others = dict[str, Ref]
# Stages whose artifact is a tuned model.
TUNED_STAGES = ("tune", "select", "plug_in")
# Stages between a model and its tuning: those whose arguments do not name the model name a parent that does.
MADE_FROM = ("tune", "emulate", "compress", "compress_by_gradient", "distill")
KEY = re.compile(rf"(?:({'|'.join(TUNED_STAGES)})/)?([0-9a-f]{{1,64}})")


def find_others(settings: StudySettings, model: "ModelSource") -> Others:
    """Find the artifacts of study.other.

    Raises:
        InputError: when one does not exist, or is not a tuning of this model.
    """
    from tasks.store.remote.store import open_store

    store = open_store(settings.store_root, settings.store_url)
    return {name: find_tuned(store, name, given, model) for name, given in settings.study.other.items()}


def find_tuned(store: Store, name: str, given: str, model: "ModelSource") -> Ref:
    """Find the artifact of a tuning by its folder in the store or the start of its key.

    Raises:
        InputError: when none or several are found, or it is not a tuning of this model.
    """
    places = _places(store, given)
    found = store.find(*places[0]) if len(places) == 1 else None
    if found is None:
        what = f"{len(places)} tunings begin with that" if len(places) > 1 else "there is no such tuning"
        raise InputError(
            f"study.other.{name} = {given!r}: {what} in {_place_of(store)}; give the folder of an artifact of"
            f" {', '.join(TUNED_STAGES)} there, or the start of its key (`crash runs --keys` lists them)"
        )
    _require_model(store, f"study.other.{name} = {given!r}", found, model)
    return found.ref


def _places(store: Store, given: str) -> list[tuple[str, str]]:
    """Return stage and key of the artifacts that may be meant: that of a folder in this store, or by a key's start."""
    if (match := KEY.fullmatch(given)) is not None:
        stages = [match[1]] if match[1] else TUNED_STAGES
        return [(stage, key) for stage in stages for key in store.keys(stage) if key.startswith(match[2])]
    place = Path(given).expanduser().resolve()
    inside = place.parent.parent == (store.root / "artifacts").resolve() and place.parent.name in TUNED_STAGES
    return [(place.parent.name, place.name)] if inside else []


def _place_of(store: Store) -> str:
    from tasks.store.remote.store import CachedRemoteStore

    return store.remote.url if isinstance(store, CachedRemoteStore) else str(store.root)


def _require_model(store: Store, what: str, tuning: Artifact, model: "ModelSource") -> None:
    """Check that the tuning is one of this model's weights.

    Raises:
        InputError: when it is not, or when the tuned model is unknown.
    """
    weights = _tuned_weights(store, tuning)
    if weights is None:
        raise InputError(
            f"{what} ({tuning.ref.stage}): which model was tuned is unknown, as the emulator is no longer in"
            f" {_place_of(store)}; give the artifact of plug_in, or run again what made it"
        )
    if weights != model.weights:
        raise InputError(
            f"{what} is a tuning of a model with weights {weights[:12]}, {model.name} has {model.weights[:12]}: give a"
            " tuning of this model"
        )


def _tuned_weights(store: Store, made: Artifact) -> str | None:
    """Return the digest of the tuned model's weights; None if an artifact in between no longer exists."""
    if (model := made.manifest["inputs"]["arguments"].get("model")) is not None:
        return str(model["weights"])
    for parent in made.manifest["parents"]:
        if parent["stage"] in MADE_FROM:
            found = store.find(parent["stage"], parent["key"])
            return _tuned_weights(store, found) if found else None
    return None
