"""Find which fields the rows of a task need, by trial: what a definition's code reads is not declared anywhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.data.rows.reading import Row

Fields = dict[str, Any]


def find_lacking(rows: list[Row], read: Callable[[Row], object]) -> tuple[Row, list[str]] | None:
    """Find the first row that lacks fields which the task reads, and return it with their names; None if there is none.

    read: words one row alone and raises if that is not possible. One row of each set of fields is tried. Null counts as
    a value, and a field that a template reads in conditions only is not needed: lm-eval fills it with null.
    """
    every = {key for row in rows for key in row.fields}
    tried: set[frozenset[str]] = set()
    for row in rows:
        lacking = frozenset(every - row.fields.keys())
        if lacking and lacking not in tried:
            tried.add(lacking)
            if names := _read_of(row, lacking, rows, read):
                return row, names
    return None


def _read_of(row: Row, lacking: frozenset[str], rows: list[Row], read: Callable[[Row], object]) -> list[str]:
    """Return those of the lacking fields without which the row cannot be read."""
    if not _fails(row.number, row.fields, lacking, read):
        return []
    # Try with values of other rows in their place: if that fails too, something else is wrong with this row.
    whole = row.fields | {key: _first_value(rows, key) for key in lacking}
    if _fails(row.number, whole, frozenset(), read):
        return []
    names = [key for key in sorted(lacking) if _fails(row.number, _without(whole, key), frozenset({key}), read)]
    return names or sorted(lacking)


def _fails(number: int, fields: Fields, lacking: frozenset[str], read: Callable[[Row], object]) -> bool:
    """Return whether a row without these fields cannot be read."""
    from jinja2 import UndefinedError

    try:
        read(Row(number, fields))
    except UndefinedError:
        # A template names the field. lm-eval itself fills it with null, which is right in a condition but not as text.
        try:
            with _null_is_no_text():
                read(Row(number, fields | dict.fromkeys(lacking)))
        except Exception:
            return True
    except Exception:
        return True
    return False


@contextmanager
def _null_is_no_text() -> Iterator[None]:
    """Make lm-eval's templates fail where they would write null as "None"."""
    from lm_eval.utils import env

    def refuse_null(value: Any) -> Any:
        if value is None:
            raise ValueError("null as text")
        return value

    before, env.finalize = env.finalize, refuse_null
    try:
        yield
    finally:
        env.finalize = before


def _first_value(rows: list[Row], key: str) -> Any:
    return next((value for row in rows if (value := row.fields.get(key)) is not None), None)


def _without(fields: Fields, key: str) -> Fields:
    return {name: value for name, value in fields.items() if name != key}
