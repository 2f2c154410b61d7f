"""Landscapes as the stage wrote them, and the texts that their pictures share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.artifacts.files import as_lists
from tasks.artifacts.study.landscape import landscape_summary
from tasks.artifacts.study.landscape import read_landscape as read_files
from tasks.reports.study.cells import Analysis, CellResults


@dataclass(frozen=True)
class Seen:
    """A landscape: its cell, its facts (`landscape.json`), its tensors as lists, and the number of rows."""

    label: str
    model: str
    task: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Any]
    num_rows: int


def read_landscape(cell: CellResults, analysis: Analysis) -> Seen:
    """Read one landscape of a cell."""
    found, facts = read_files(analysis.folder)
    return Seen(cell.label, cell.model, cell.task, facts, as_lists(found), landscape_summary(analysis)["num_rows"])


def metric_words(metric: str) -> str:
    """Return a metric's name for an axis."""
    return {"acc": "accuracy", "perplexity": "perplexity of answers"}.get(metric, metric.replace("_", " "))


def note(seen: Sequence[Seen]) -> str:
    """Return the numbers of rows and answer tokens of each landscape, for a heading."""
    parts = [
        f"{each.task}: n = {each.num_rows} rows of {each.facts['split']}, {each.facts['num_tokens']} answer tokens"
        for each in seen
    ]
    return "; ".join(dict.fromkeys(parts))


def data(seen: Sequence[Seen]) -> str:
    """Describe the data of each landscape in a sentence."""
    return " ".join(
        f"{each.label}: {each.model} on {each.task}, n = {each.num_rows} rows of the {each.facts['split']} split,"
        f" {each.facts['num_tokens']} answer tokens."
        for each in seen
    )
