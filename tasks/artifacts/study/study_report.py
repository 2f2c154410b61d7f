"""The page and the numbers of a study, `study.json`: the artifact of `findings`, beside its figures as PNG and CSV."""

from pathlib import Path
from typing import Any, TypedDict

from tasks.artifacts.files import JsonFile, require_file

STUDY_PAGE = "study.html"
# The page without the figures that show words of rows; only there if the study has such figures.
PAGE_WITHOUT_WORDS = "study_without_words.html"
STUDY_TABLE = "study.md"


class StudyReport(TypedDict):
    """cells: labels; numbers: answers as `tasks.reports.study.answers.numbers`; figures: names of all figures;
    private: names of those that show words of rows.
    """

    cells: list[str]
    numbers: list[dict[str, Any]]
    figures: list[str]
    private: list[str]


STUDY_FILE = JsonFile("study.json", "report of a study", StudyReport, indent=1, sort_keys=True)


class StudySummary(TypedDict):
    """Summary of `findings`, which also has the study's numbers by `stage.fact`."""

    num_figures: int


def write_study_report(folder: Path, found: StudyReport) -> None:
    """Write the numbers of a study."""
    STUDY_FILE.write(folder, found)


def read_study_report(folder: Path) -> StudyReport:
    """Read the numbers of a study.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return STUDY_FILE.read(folder)


def read_study_table(folder: Path) -> str:
    """Read the study's numbers as a Markdown table.

    Raises:
        InputError: when the file is missing.
    """
    return require_file(folder, STUDY_TABLE, "table of a study").read_text()
