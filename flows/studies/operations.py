"""The operations that the parts of a study need of a model's family, and why each is needed."""

from typing import TYPE_CHECKING

from flows.running.operations import Wanted, norm_operations, plan_operations
from flows.settings.kinds import StudySettings
from flows.studies.checks import needed_tunings

if TYPE_CHECKING:
    from tasks.data.sources import TaskSource


def study_operations(settings: StudySettings, task: "TaskSource") -> Wanted:
    """Return the operations that the parts of a study need; no part scores a task's own metric."""
    study = settings.study
    wanted: Wanted = {}
    tuned = needed_tunings(settings)
    strategies = [name for name in settings.strategy if name in tuned]
    if {"similarity", "datasets"} & set(study.parts) or strategies:
        wanted |= {"capture": "", **norm_operations(settings)}
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
        wanted |= {"surgery": "", **plan_operations(settings, strategies or settings.strategy)}
    return wanted
