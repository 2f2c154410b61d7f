"""The plan of an emulator, `plan.json`: the artifact of `cluster`, and a file of every emulator and tuning."""

from pathlib import Path
from typing import TypedDict, cast

from tasks.artifacts.files import HasSummary, require_file
from tasks.core.plan.layout import Plan

PLAN_FILE = "plan.json"


class PlanSummary(TypedDict):
    """Summary of `cluster`. kept, tuned: indices of blocks; depth: number of positions of the emulator."""

    strategy: str
    num_blocks: int
    num_kept: int
    kept: list[int]
    tuned: list[int]
    share: str | None
    depth: int


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan into the folder of an artifact."""
    (folder / PLAN_FILE).write_text(plan.to_json())


def read_plan(folder: Path, what: str = "plan") -> Plan:
    """Read the plan of an artifact. what: what the folder should hold, for messages.

    Raises:
        InputError: when the file is missing or not a valid plan.
    """
    return Plan.from_json(require_file(folder, PLAN_FILE, what).read_text())


def summarise_plan(strategy: str, plan: Plan) -> PlanSummary:
    """Return the summary of a strategy's plan."""
    return {
        "strategy": strategy,
        "num_blocks": plan.num_blocks,
        "num_kept": len(plan.kept),
        "kept": list(plan.kept),
        "tuned": list(plan.tuned),
        "share": plan.share,
        "depth": len(plan.layout),
    }


def plan_summary(result: HasSummary) -> PlanSummary:
    """Return the summary of a result of `cluster`."""
    return cast(PlanSummary, result.summary)
