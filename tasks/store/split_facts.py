"""Facts about a task's splits: where their rows come from, which are left out, and digests of their wording."""

from typing import Any

from tasks.store.examples import Examples
from tasks.store.readings import is_steady
from tasks.store.splits import overlaps, split_rows
from tasks.store.task_code import code_of
from tasks.store.task_sources import Split, TaskSource
from tasks.store.wording import reworded

# Rows that are worded twice.
NUM_TWICE = 32


def split_facts(task: TaskSource, found: dict[Split, Examples]) -> dict[str, Any]:
    """Facts about the splits of a task, as `tasks.store.split_notes` shows them. found: the examples of each split.

    Raises:
        InputError: where the task's own code words the same rows differently when it is asked twice.
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
