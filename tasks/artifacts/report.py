"""The report of a run: its numbers, tables, page, pictures, and the plug-ins' outcomes. The artifact of `report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile, load_tensors, require_file

if TYPE_CHECKING:
    import numpy as np

REPORT_PAGE = "report.html"
OUTCOMES_FILE = "outcomes.safetensors"
SCORES_PICTURE = "scores.png"
PLANS_PICTURE = "plans.png"
SIMILARITY_PICTURE = "similarity.png"
ADJACENT_PICTURE = "adjacent.png"
DENDROGRAM_PICTURE = "dendrogram.png"
LOSSES_PICTURE = "losses.png"


class Report(TypedDict):
    """The numbers of a report.

    facts: about model, task and settings; comparison: scores by strategy, setting and seed; rows: of the long table;
    spending: sizes by strategy; emulators: by strategy, the stage that wrote its emulator.
    """

    facts: dict[str, Any]
    comparison: dict[str, Any]
    rows: list[dict[str, Any]]
    spending: dict[str, dict[str, Any]]
    emulators: dict[str, str]


REPORT_FILE = JsonFile("report.json", "report", Report, indent=1, sort_keys=True)


class ReportSummary(TypedDict):
    """Summary of `report`. efforts: by strategy, what its tunings cost, as `tasks.reports.spending.tuning_cost`."""

    strategies: list[str]
    efforts: dict[str, dict[str, float]]


def write_report(folder: Path, report: Report) -> None:
    """Write the numbers of a report."""
    REPORT_FILE.write(folder, report)


def read_report(folder: Path) -> Report:
    """Read the numbers of a report.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return REPORT_FILE.read(folder)


def write_outcomes(folder: Path, outcomes: "Mapping[str, np.ndarray]") -> None:
    """Write by strategy the outcome of each scored row, float64 [n]: the mean of the plug-ins over tuning seeds."""
    from safetensors.numpy import save_file

    save_file(dict(outcomes), folder / OUTCOMES_FILE)


def read_outcomes(folder: Path) -> "dict[str, np.ndarray]":
    """Read by strategy the outcome of each scored row, float64 [n]; strategies without outcomes are absent.

    Raises:
        InputError: when the file is missing or damaged.
    """
    return load_tensors(require_file(folder, OUTCOMES_FILE, "outcomes of scored rows"))


def report_summary(result: HasSummary) -> ReportSummary:
    """Return the summary of a result of `report`."""
    return cast(ReportSummary, result.summary)
