"""Checks of a study's settings, made before anything is computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.running.disk_needs import MIN_FREE_BYTES, distilling_bytes, emulator_bytes, needed_bytes
from flows.running.pass_limits import EVALUATE, Limits, captured, tuned
from flows.settings.kinds import StudySettings
from tasks.core.errors import InputError
from tasks.data.pass_limits import PassLimit

if TYPE_CHECKING:
    from tasks.models.source import ModelSource

INITIAL, FULL = "initial", "full"


def check_study(settings: StudySettings) -> None:
    """Refuse contradictory settings.

    Raises:
        InputError: when names or points are invalid, or plug-ins are needed that these settings cannot give.
    """
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
    if "similarity" in study.parts and study.against == "emulator":
        for name in filter(settings.plan.is_harmonized, settings.strategy):
            raise InputError(
                f'study.against = "emulator" with the harmonizers of strategy {name}: emulators are captured as plain'
                ' models, which have none; choose study.against = "plug_in", or another plan.share'
            )


def _check_plugged(settings: StudySettings) -> None:
    """Refuse plug-ins that do not change the full model's own weights."""
    plugged = set(needed_tunings(settings)) & set(settings.strategy)
    if plugged and settings.tune.method == "prompt":
        raise InputError(
            'tune.method = "prompt" in a study of tuned models: a prompt changes no block, so that there is nothing to'
            " compare; choose from blocks, lora, adapter, bitfit"
        )
    merged = compares_plugged(settings) or plugged & set(_on_landscape(settings))
    wanted = (
        'study.against = "plug_in"'
        if compares_plugged(settings)
        else "a plug-in among study.points"
        if merged
        else "study.rewound = true and full_tune.enabled = false"
    )
    if merged and settings.tune.method == "adapter":
        raise InputError(
            f'tune.method = "adapter" with {wanted}: adapters are modules of their own, not weights of the full model;'
            " choose from blocks, lora, bitfit"
        )
    if plugged and settings.tune.trained == "frozen":
        raise InputError(
            f'tune.trained = "frozen" with {wanted}: frozen blocks stay with the emulator, so that nothing is plugged'
            " in; choose from tuned, all"
        )


def require_something(cells: Sequence[StudySettings]) -> None:
    """Check that a comparison of data sets alone has at least two.

    Raises:
        InputError: when there is only one.
    """
    if all(cell.study.parts == ("datasets",) for cell in cells):
        sets = {(cell.model.name, cell.task.name, cell.task.data, cell.task.kind) for cell in cells}
        if len(sets) <= len({each[0] for each in sets}):
            raise InputError(
                'study.parts = ["datasets"] compares data sets, and there is one only: give task.name a list of'
                " several, or write [[variants]] that differ in [task]"
            )


def points_of(settings: StudySettings, everything: bool = False) -> tuple[str, ...]:
    """Return the models that the landscape passes through, in order: the chosen ones, or all."""
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


def compares_plugged(settings: StudySettings) -> bool:
    """Whether the states of plug-ins are captured, for which these are exported as model folders."""
    return "similarity" in settings.study.parts and settings.study.against == "plug_in"


def rewound_tuning(settings: StudySettings) -> str:
    """Return the tuning that importance undoes: the full model's, or where that is disabled the first strategy's."""
    return FULL if settings.full_tune.enabled else settings.strategy[0]


def needed_tunings(settings: StudySettings) -> tuple[str, ...]:
    """Return the tuned models that the chosen parts need: `full` first, then strategies."""
    names = set(_on_landscape(settings))
    if compares_plugged(settings):
        names |= set(settings.strategy)
    if "importance" in settings.study.parts and settings.study.rewound:
        names.add(rewound_tuning(settings))
    return tuple(name for name in (FULL, *settings.strategy) if name in names)


def moved_tuning(settings: StudySettings) -> str | None:
    """Return the tuning for which the change of weights is computed: one of whole blocks that another part needs."""
    whole = settings.tune.method == "blocks"
    return next((name for name in needed_tunings(settings) if name == FULL or whole), None)


def study_bytes(settings: StudySettings, model: "ModelSource") -> int:
    """Upper bound of the disk a study takes, in bytes: its tunings and exports, and the lens with its checkpoint."""
    from tasks.models.folder import load_config
    from tasks.models.tensor_files import weight_bytes

    parts, names = settings.study.parts, needed_tunings(settings)
    full_tune = settings.full_tune.model_copy(update={"enabled": FULL in names})
    plugged = tuple(name for name in settings.strategy if name in names)
    tuned = settings.model_copy(update={"strategy": plugged, "full_tune": full_tune})
    needed = needed_bytes(tuned, model) if names else MIN_FREE_BYTES
    if "similarity" in parts and settings.study.against == "emulator":
        others = tuple(name for name in settings.strategy if name not in names)
        needed += emulator_bytes(settings.model_copy(update={"strategy": others}), model)
        needed += 0 if names else distilling_bytes(settings, model)
    if compares_plugged(settings):
        needed += len(settings.strategy) * weight_bytes(Path(model.path))
    if "lens" in parts:
        config: Any = load_config(Path(model.path))
        # A square matrix for each block in float32; twice its best state and two moments in the checkpoint.
        needed += 8 * 4 * model.num_blocks * config.hidden_size**2
    return needed


def study_limits(settings: StudySettings) -> Limits:
    """Limits of the passes that the chosen parts of a study make."""
    study, parts, most = settings.study, settings.study.parts, settings.evaluate.max_tokens
    limits: list[PassLimit] = []
    if set(parts) - {"weights", "importance"}:
        limits += captured(settings)
    if needed_tunings(settings):
        limits += captured(settings) + tuned(settings)
    if "lens" in parts:
        block = study.lens_block
        limits += [
            PassLimit(EVALUATE, most, "train", study.lens_rows, num_tokens=block),
            PassLimit(EVALUATE, most, "validation", max(study.lens_rows, study.trajectory_rows)),
        ]
    if "importance" in parts:
        limits.append(PassLimit(EVALUATE, most, "validation", study.importance_rows))
    if "landscape" in parts:
        limits.append(PassLimit(EVALUATE, most, "validation", study.landscape_rows, choices=True))
    return tuple(limits)


def _on_landscape(settings: StudySettings) -> tuple[str, ...]:
    return points_of(settings) if "landscape" in settings.study.parts else ()
