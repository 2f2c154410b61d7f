"""Facts about a task's splits: where their rows come from, which are left out, and digests of their wording."""

from typing import Any

from tasks.data.lm_eval.code import code_of
from tasks.data.lm_eval.readings import is_steady
from tasks.data.sources import Split, TaskSource
from tasks.data.splits.division import overlaps, split_rows
from tasks.data.tokenize import Examples
from tasks.data.wording import reworded

# Rows that are worded twice.
NUM_TWICE = 32


def split_facts(task: TaskSource, found: dict[Split, Examples]) -> dict[str, Any]:
    """Return facts about a task's splits, as `tasks.reports.input_notes` shows them. found: the examples of each split.

    Raises:
        InputError: when the task's own code words the same rows differently in two calls.
    """
    has_code = task.kind == "lm_eval" and bool(code_of(task))
    if has_code and not is_steady(task, split_rows(task, "train")[:NUM_TWICE]):
        raise reworded(task.name, "train")
    return {
        "scored_split": task.scored,
        "scored_from": "train" if task.scored_from_train else task.scored,
        "validation_from": "train" if task.validation_is_held_out else "validation",
        **overlaps(task),
        **{f"{split}_digest": examples.digest for split, examples in found.items()},
    }
