"""The operations that settings need of a model's family (`tasks.models.families.known`), and why each is needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.running.arguments import plan_options
from flows.settings.run import Settings
from tasks.core.plan.layout import LINEAR, REPEATING
from tasks.core.plan.registry import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.settings.plan import Strategy
    from tasks.data.sources import TaskSource

# lm-eval's own value where a definition does not name its kind of output.
DEFAULT_OUTPUT = "generate_until"
Wanted = dict[str, str]


def run_operations(settings: Settings, task: "TaskSource") -> Wanted:
    """Return the operations that a crash run needs; some only with certain settings, or for tasks of generated text."""
    wanted = dict.fromkeys(("capture", "scoring", "surgery", "tuning"), "")
    wanted |= plan_operations(settings, settings.strategy) | norm_operations(settings)
    if _generates(task):
        wanted |= dict.fromkeys(("cache", "generation"), f"task.name = {task.name!r}")
    return wanted


def plan_operations(settings: Settings, strategies: "Sequence[Strategy]") -> Wanted:
    """Return the operations that plans and their evidence need; the first strategy that needs one is named."""
    wanted: Wanted = {}
    for name in strategies:
        share = plan_options(settings, name)["share"]
        if share == LINEAR or share in REPEATING:
            wanted.setdefault("stand_ins" if share == LINEAR else "sharing", f"plan.share of {name}")
        if STRATEGIES[name].needs == "stand_in_errors":
            wanted.setdefault("stand_ins", f"strategy {name}")
    return wanted


def norm_operations(settings: Settings) -> Wanted:
    """Return the operations that the final norm over captured states needs."""
    return {"lens": "support.final_norm = true"} if settings.support.final_norm else {}


def _generates(task: "TaskSource") -> bool:
    """Whether the task's metric is computed from generated text."""
    if task.kind != "lm_eval" or task.yaml is None:
        return False
    from tasks.data.lm_eval.definitions import merged

    return merged(Path(task.yaml)).get("output_type", DEFAULT_OUTPUT) == DEFAULT_OUTPUT
