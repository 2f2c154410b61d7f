"""The rows of a task's splits: which file they come from, which are held out of train, how many are used."""

from pathlib import Path

from tasks.core.errors import InputError
from tasks.store.rows import Row, read_rows
from tasks.store.task_sources import Split, TaskSource

# CRaSh's published rule: where there is no validation split, the first 5% of train become it and leave train.
HELD_OUT = 0.05


def split_rows(task: TaskSource, split: Split) -> list[Row]:
    """Rows of one split in file order, at most as many as the task's limit. InputError if there are none.

    `scored` is what lm-eval scores; `validation` never is: where the task scores its validation split, rows held out
    of train take its place.
    """
    rows = _all_rows(task, split)
    if not rows:
        raise InputError(f"task {task.name!r}: no row is left for {split}; {Path(task.file(split)).name} is too small")
    return rows[: task.limit(split)]


def _all_rows(task: TaskSource, split: Split) -> list[Row]:
    if task.single_file:
        return _part(read_rows(Path(task.files["train"])), split)
    if split == "scored":
        return read_rows(Path(task.files[task.scored]))
    if not task.validation_is_held_out:
        return read_rows(Path(task.files[split]))
    rows = read_rows(Path(task.files["train"]))
    count = _share(len(rows))
    return rows[:count] if split == "validation" else rows[count:]


def _part(rows: list[Row], split: Split) -> list[Row]:
    """Of a single file the first 5% are validation, the last 5% are scored, the rest is train."""
    count = _share(len(rows))
    parts = {"validation": rows[:count], "train": rows[count:-count], "scored": rows[max(count, len(rows) - count) :]}
    return parts[split]


def _share(num_rows: int) -> int:
    return max(1, round(HELD_OUT * num_rows))
