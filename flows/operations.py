"""The operations that settings need of a model's family (`tasks.store.families`), and why each is needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.arguments import plan_options
from flows.settings import Settings
from flows.study_checks import needed_tunings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.plan_settings import Strategy
    from tasks.store.task_sources import TaskSource

# lm-eval's own value where a definition does not name its kind of output.
DEFAULT_OUTPUT = "generate_until"
Wanted = dict[str, str]


def run_operations(settings: Settings, task: "TaskSource") -> Wanted:
    """Operations that a crash run needs; some only with certain settings, or for tasks of generated text."""
    wanted = dict.fromkeys(("capture", "scoring", "surgery", "tuning"), "")
    wanted |= _sharing(settings, settings.strategy) | _norm(settings)
    if _generates(task):
        wanted |= dict.fromkeys(("cache", "generation"), f"task.name = {task.name!r}")
    return wanted


def study_operations(settings: Settings, task: "TaskSource") -> Wanted:
    """Operations that the parts of a study need; no part scores a task's own metric."""
    study = settings.study
    wanted: Wanted = {}
    tuned = needed_tunings(settings)
    strategies = [name for name in settings.strategy if name in tuned]
    if {"similarity", "datasets"} & set(study.parts) or strategies:
        wanted |= {"capture": "", **_norm(settings)}
    if "lens" in study.parts:
        wanted |= dict.fromkeys(("capture", "lens"), 'study.parts = ["lens"]')
        wanted |= {"surgery": "study.trajectory_rows"} if study.trajectory_rows else {}
    if "importance" in study.parts:
        wanted |= dict.fromkeys(("scoring", "surgery"), 'study.parts = ["importance"]')
    if "landscape" in study.parts:
        wanted["scoring"] = 'study.parts = ["landscape"]'
    if tuned:
        wanted |= {"tuning": "", "scoring": ""}
    if strategies or ("similarity" in study.parts and study.against):
        wanted |= {"surgery": "", **_sharing(settings, strategies or settings.strategy)}
    return wanted


def _sharing(settings: Settings, strategies: "Sequence[Strategy]") -> Wanted:
    sharing = [name for name in strategies if plan_options(settings, name)["share"] is not None]
    return {"sharing": f"plan.share of {sharing[0]}"} if sharing else {}


def _norm(settings: Settings) -> Wanted:
    return {"lens": "support.final_norm = true"} if settings.support.final_norm else {}


def _generates(task: "TaskSource") -> bool:
    """Whether the task's metric is computed from generated text."""
    if task.kind != "lm_eval" or task.yaml is None:
        return False
    from tasks.store.task_files import merged

    return merged(Path(task.yaml)).get("output_type", DEFAULT_OUTPUT) == DEFAULT_OUTPUT
