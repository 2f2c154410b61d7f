"""The scores of a model on the scored split, `scores.json`: the artifact of `evaluate`.

The file has the fields of `tasks.core.evaluation.scores.Scores`. Rows are known by their number only.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TypedDict, cast

from tasks.artifacts.files import HasSummary, read_object
from tasks.core.evaluation.scores import Scores

SCORES_FILE = "scores.json"


class ScoresSummary(TypedDict):
    """Summary of `evaluate`, which also has the task's other metrics by name.

    stderr: over rows, None for a single one; scored_digest: of the texts of the rows; chance: what guessing scores,
    None where it has no score; num_truncated: requests whose prompt lost its beginning.
    """

    metric: str
    value: float
    stderr: float | None
    num_rows: int
    higher_is_better: bool
    scored_digest: str
    chance: float | None
    num_truncated: int


def write_scores(folder: Path, scores: Scores) -> None:
    """Write the scores of one model."""
    (folder / SCORES_FILE).write_text(json.dumps(vars(scores), indent=2) + "\n")


def read_scores(folder: Path) -> Scores:
    """Read the scores of one model.

    Raises:
        InputError: when the file is missing or not valid.
    """
    names = [field.name for field in fields(Scores)]
    found = read_object(folder, SCORES_FILE, "scores", names)
    return Scores(**{name: found[name] for name in names})


def summarise_scores(scores: Scores) -> ScoresSummary:
    """Return the part of the summary that every task has."""
    return {
        "metric": scores.metric,
        "value": scores.value,
        "stderr": scores.stderr,
        "num_rows": scores.num_rows,
        "higher_is_better": scores.higher_is_better,
        "scored_digest": scores.digest,
        "chance": scores.chance,
        "num_truncated": scores.num_truncated,
    }


def scores_summary(result: HasSummary) -> ScoresSummary:
    """Return the summary of a result of `evaluate`."""
    return cast(ScoresSummary, result.summary)
