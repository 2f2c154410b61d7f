"""The scores of every cell of a sweep, `sweep.json`, with tables and a page: the artifact of `collect`."""

from pathlib import Path
from typing import Any, TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile

SWEEP_PAGE = "table.html"


class SweepTable(TypedDict):
    """The numbers of a sweep.

    axes: names; rows: of the long table; tests: of plug-ins against the strategy uniform; failed: values and error of
    each cell that failed; num_done: number of the others.
    """

    axes: list[str]
    rows: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    num_done: int


SWEEP_FILE = JsonFile("sweep.json", "table of a sweep", SweepTable, indent=1)


class SweepSummary(TypedDict):
    """Summary of `collect`."""

    num_cells: int
    num_failed: int


def write_sweep_table(folder: Path, found: SweepTable) -> None:
    """Write the numbers of a sweep."""
    SWEEP_FILE.write(folder, found)


def read_sweep_table(folder: Path) -> SweepTable:
    """Read the numbers of a sweep.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return SWEEP_FILE.read(folder)


def sweep_summary(result: HasSummary) -> SweepSummary:
    """Return the summary of a result of `collect`."""
    return cast(SweepSummary, result.summary)
