"""Trial readings of an lm-eval task's rows: whether they read the same twice, and without some of their fields."""

from collections.abc import Sequence

from tasks.data.lm_eval.requests import answer_of, ask
from tasks.data.lm_eval.seeding import seeded
from tasks.data.lm_eval.task import attempt
from tasks.data.rows.reading import Row
from tasks.data.sources import Split, TaskSource

Reading = tuple[bytes, tuple[str | None, str]]


def same_without(source: TaskSource, rows: Sequence[Row], fields: frozenset[str]) -> bool:
    """Return whether rows of the scored file read the same without these fields; False for rows that cannot be read."""
    fewer = [Row(row.number, {key: value for key, value in row.fields.items() if key not in fields}) for row in rows]
    try:
        whole, without = ([texts for _, texts in _read(source, "scored", given)] for given in (rows, fewer))
    except (Exception, SystemExit):  # an error in these rows is reported where they are used
        return False
    return whole == without


def is_steady(source: TaskSource, rows: Sequence[Row]) -> bool:
    """Return whether the task's own code words rows of train the same way when it runs twice."""
    first, second = ([mark for mark, _ in _read(source, "train", rows)] for _ in range(2))
    return first == second


def _read(source: TaskSource, split: Split, rows: Sequence[Row]) -> list[Reading]:
    """Read rows, and return the mark of each with its prompt and answer."""
    with seeded():
        task = attempt(source, split, rows)
        asked = [(doc, ask(task, doc)) for doc in task.eval_docs]
        return [(each.mark, answer_of(task, doc, each)) for doc, each in asked]
