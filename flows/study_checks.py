"""What a study is given beside model and task, refused where it cannot be: before anything is computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.inputs import MIN_FREE_BYTES, needed_bytes
from flows.settings import Settings
from tasks.core.errors import InputError
from tasks.store.artifacts import Ref, Store

if TYPE_CHECKING:
    from tasks.store.models import ModelSource

Others = dict[str, Ref]
# Stages whose artifact is a tuned model.
TUNED_STAGES = ("tune", "select", "plug_in")
INITIAL, FULL = "initial", "full"


def check_study(settings: Settings) -> None:
    """Refuse what contradicts itself. Raises InputError."""
    study = settings.study
    if taken := {INITIAL, FULL, *settings.strategy} & set(study.other):
        raise InputError(f"study.other names {sorted(taken)[0]!r}, which is a model of the study's own; rename it")
    choices = points_of(settings, everything=True)
    if unknown := [name for name in study.points if name not in choices]:
        raise InputError(
            f"study.points has {unknown[0]!r}; choose from {', '.join(choices)} (strategies are those of `strategy`,"
            " others those of study.other)"
        )
    if "landscape" in study.parts and len(points_of(settings)) < 2:
        raise InputError(
            f"study.points = {list(points_of(settings))}: a landscape needs at least two models; choose from"
            f" {', '.join(choices)}"
        )
    if FULL in study.points and not settings.full_tune.enabled:
        raise InputError('study.points has "full", but full_tune.enabled = false: switch it on, or leave "full" out')
    _check_plugged(settings)


def _check_plugged(settings: Settings) -> None:
    """Refuse plug-ins that are no change of the full model's own weights."""
    study = settings.study
    on_landscape = "landscape" in study.parts and set(points_of(settings)) & set(settings.strategy)
    against = "similarity" in study.parts and study.against == "plug_in"
    if not (on_landscape or against):
        return
    wanted = 'study.against = "plug_in"' if against else "a plug-in among study.points"
    if settings.tune.method == "adapter":
        raise InputError(
            f'tune.method = "adapter" with {wanted}: adapters are modules of their own, not weights of the full model;'
            " choose from blocks, lora, bitfit"
        )
    if settings.tune.trained == "frozen":
        raise InputError(
            f'tune.trained = "frozen" with {wanted}: frozen blocks stay with the emulator, so that nothing is plugged'
            " in; choose from tuned, all"
        )


def find_others(settings: Settings) -> Others:
    """The artifacts of study.other. Raises InputError where one is not there."""
    store = _store(settings)
    return {name: find_tuned(store, name, given) for name, given in settings.study.other.items()}


def require_something(cells: Sequence[Settings]) -> None:
    """Raises InputError where data sets alone are to be compared and there is one only."""
    if all(cell.study.parts == ("datasets",) for cell in cells):
        sets = {(cell.model.name, cell.task.name, cell.task.data, cell.task.kind) for cell in cells}
        if len(sets) <= len({each[0] for each in sets}):
            raise InputError(
                'study.parts = ["datasets"] compares data sets, and there is one only: give task.name a list of'
                " several, or write [[variants]] that differ in [task]"
            )


def points_of(settings: Settings, everything: bool = False) -> tuple[str, ...]:
    """Models that the landscape lies through, in order: as chosen, or all that there are."""
    full = (FULL,) if settings.full_tune.enabled or everything else ()
    return (
        settings.study.points
        if settings.study.points and not everything
        else (
            INITIAL,
            *full,
            *settings.strategy,
            *settings.study.other,
        )
    )


def find_tuned(store: Store, name: str, given: str) -> Ref:
    """The artifact of a tuning by its folder in the store or the start of its key. Raises InputError."""
    place = Path(given)
    stages = [place.parent.name] if place.parent.name in TUNED_STAGES else TUNED_STAGES
    folders = [
        folder for stage in stages for folder in sorted((store.root / "artifacts" / stage).glob(f"{place.name}*"))
    ]
    found = [artifact for folder in folders if (artifact := store.find(folder.parent.name, folder.name))]
    if len(found) == 1:
        return found[0].ref
    what = "several tunings begin with that" if found else "there is no such tuning"
    raise InputError(
        f"study.other.{name} = {given!r}: {what} in {store.root}; give the folder of an artifact of"
        f" {', '.join(TUNED_STAGES)} there, or the start of its key (`crash runs --keys` lists them)"
    )


def study_bytes(settings: Settings, model: "ModelSource") -> int:
    """Disk that a study takes at most: what is tuned for it, and the lens with its checkpoint."""
    from tasks.store.model_folder import load_config

    needed = needed_bytes(settings, model) if tunes(settings) else MIN_FREE_BYTES
    if "lens" in settings.study.parts:
        config: Any = load_config(Path(model.path))
        # A square matrix for each block in float32; twice its best state and two moments in the checkpoint.
        needed += 8 * 4 * model.num_blocks * config.hidden_size**2
    return needed


def tunes(settings: Settings) -> bool:
    """Whether anything is tuned for this study."""
    study = settings.study
    rewinds = "importance" in study.parts and study.rewound
    return study.against == "plug_in" or "landscape" in study.parts or rewinds


def _store(settings: Settings) -> Store:
    from tasks.store.fronted import open_store

    return open_store(settings.store_root, settings.store_url)
