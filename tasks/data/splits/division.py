"""Divide a task's rows into splits: which file they come from, which are held out, how many are used.

Splits are disjoint by content, whatever a definition or a folder calls them. The scored rows are chosen first, then the
validation rows, then the training rows:

- Where a file is scored and trained on (GPQA), its first half is scored, and the rest is trained on. A definition's own
  code that draws random numbers draws them row by row, so that the scored rows read as those of `lm_eval --limit`.
- Where there is no validation file, or only one that is scored (PIQA, MedMCQA) or trained on (FLORES), the first of the
  remaining rows of train become the validation rows.
- A row of train or of validation with the content of a scored row is left out, and so is a row of train with the
  content of a validation row (see `tasks.data.splits.content`).
- The limits `task.num_*` are applied last.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from tasks.core.errors import InputError
from tasks.data.rows.reading import Row, read_rows
from tasks.data.sources import LIMITS, Split, TaskSource
from tasks.data.splits.content import NUM_TRIED, Key, content_key

# CRaSh's published rule: where there is no validation split, the first 5% of train become it and leave train.
HELD_OUT = 0.05
# Shares of a file that is both scored and trained on. Such benchmarks are small (GPQA: 448 rows), so a large part is
# scored, and more than 5% is used for validation.
SCORED = 0.5
VALIDATING = 0.1
# The fewest rows that are held out, because comparing blocks needs four (the unbiased estimator divides by n (n - 3)).
# Of a file with fewer than twelve rows, a quarter.
LEAST_ROWS = 4
PAIRS = ("train_scored", "train_validation", "validation_scored")


def split_rows(task: TaskSource, split: Split) -> list[Row]:
    """Return the rows of one split in file order, at most as many as the task's limit.

    `scored` is what lm-eval scores, or its first half where it is trained on too; `validation` is never scored.

    Raises:
        InputError: when no row is left.
    """
    left_out = Counter[str]()
    rows = list(islice(_disjoint(task, split, left_out), task.limit(split)))
    if not rows:
        name, num_same = Path(task.file(split)).name, left_out.total()
        why = f"rows of {name} that are in another split too: {num_same}" if num_same else f"{name} is too small"
        what = f"task {task.name!r}" if task.is_scored else "distill.data"
        raise InputError(f"{what}: no row is left for {split}; {why}")
    return rows


def overlaps(task: TaskSource) -> dict[str, int]:
    """Count, for each pair of splits, the rows of the first that are left out because they are in the second too.

    Where validation rows are taken from train, scored rows are left out before that, and count as rows of train.
    """
    left_out = Counter[str]()
    splits: tuple[Split, ...] = ("train",) if task.validation_is_held_out else ("train", "validation")
    for split in splits:
        for _ in _disjoint(task, split, left_out):
            pass
    return {f"num_{pair}_duplicates": left_out[pair] for pair in PAIRS}


def _disjoint(task: TaskSource, split: Split, left_out: Counter[str]) -> Iterator[Row]:
    """Yield all rows of one split. left_out: counts the rows that another split has too, by pair of splits."""
    rows = read_rows(Path(task.file(split)))
    if split == "scored":
        return iter(_parted(task, rows)[0])
    if split == "validation" and not task.validation_is_held_out:
        return _without(task, rows, _keys(_unlimited(task), "scored"), left_out, "validation_scored")
    num_rows, rest = len(rows), _parted(task, rows)[1]
    others = _without(task, rest, _keys(_unlimited(task), "scored"), left_out, "train_scored")
    if not task.validation_is_held_out:
        return _without(task, others, _keys(_unlimited(task), "validation"), left_out, "train_validation")
    share = VALIDATING if task.scored_from_train and not task.single_file else HELD_OUT
    validating = list(islice(others, _count(share, num_rows)))
    if split == "validation":
        return iter(validating)
    return _without(task, others, _keys_of(task, validating), left_out, "train_validation")


def _parted(task: TaskSource, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return (scored rows, others) of the file of train, or of the scored file if that is another one."""
    if task.single_file:
        # The last rows, because the published code validates on the first ones.
        count = _count(HELD_OUT, len(rows))
        return rows[max(count, len(rows) - count) :], rows[:-count]
    if task.scored_from_train:
        count = math.ceil(SCORED * len(rows))
        return rows[:count], rows[count:]
    return rows, rows


def _without(
    task: TaskSource, rows: Iterable[Row], keys: frozenset[Key], left_out: Counter[str], pair: str
) -> Iterator[Row]:
    """Yield the rows whose content is not among the keys."""
    if not keys:
        yield from rows
        return
    key = _key(_unlimited(task))
    for row in rows:
        if key(row) in keys:
            left_out[pair] += 1
        else:
            yield row


@lru_cache(maxsize=8)
def _keys(task: TaskSource, split: Split) -> frozenset[Key]:
    """Keys of the contents of a whole split; empty for generic text, see `tasks.data.generic_text`."""
    if not task.is_scored:
        return frozenset()
    return _keys_of(task, _disjoint(task, split, Counter()))


def _keys_of(task: TaskSource, rows: Iterable[Row]) -> frozenset[Key]:
    if not task.is_scored:
        return frozenset()
    key = _key(_unlimited(task))
    return frozenset(found for row in rows if (found := key(row)) is not None)


@lru_cache(maxsize=8)
def _key(task: TaskSource) -> Callable[[Row], Key | None]:
    return content_key(task, list(islice(_disjoint(task, "scored", Counter()), NUM_TRIED)))


def _unlimited(task: TaskSource) -> TaskSource:
    """Return the task without limits, which have no effect on the division."""
    return task.model_copy(update=dict.fromkeys(LIMITS.values()))


def _count(share: float, num_rows: int) -> int:
    least = LEAST_ROWS if num_rows >= 3 * LEAST_ROWS else num_rows // 4
    return max(1, round(share * num_rows), least)
