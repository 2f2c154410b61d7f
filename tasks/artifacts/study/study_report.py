"""The page and the numbers of a study, `study.json`: the artifact of `findings`, beside its figures as PNG and CSV."""

import json
from pathlib import Path
from typing import Any, TypedDict, cast

from tasks.artifacts.files import read_object, require_file

STUDY_FILE = "study.json"
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


class StudySummary(TypedDict):
    """Summary of `findings`, which also has the study's numbers by `stage.fact`."""

    num_figures: int


def write_study_report(folder: Path, found: StudyReport) -> None:
    """Write the numbers of a study."""
    (folder / STUDY_FILE).write_text(json.dumps(found, indent=1, sort_keys=True))


def read_study_report(folder: Path) -> StudyReport:
    """Read the numbers of a study.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(StudyReport, read_object(folder, STUDY_FILE, "report of a study", StudyReport.__required_keys__))


def read_study_table(folder: Path) -> str:
    """Read the study's numbers as a Markdown table.

    Raises:
        InputError: when the file is missing.
    """
    return require_file(folder, STUDY_TABLE, "table of a study").read_text()
