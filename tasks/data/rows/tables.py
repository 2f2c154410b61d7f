"""Rows as a table of `datasets`; if they do not fit, find the first row that does not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data.rows.reading import Row
from tasks.data.sources import FEATURES_FILE
from tasks.models.folder_facts import read_json
from tasks.store.boundary import translated

if TYPE_CHECKING:
    from datasets import Dataset, Features


def make_table(path: Path, rows: list[Row]) -> "Dataset":
    """Make a data set with one column for each field of any row; a field that a row lacks is None.

    path: the file that the rows come from. Beside it, features.json may describe the columns.

    Raises:
        InputError: when values of one field differ in kind (names the row), or the description cannot be used.
    """
    features = read_features(path.parent / FEATURES_FILE)
    try:
        return _table(rows, features)
    except Exception as error:  # pyarrow's error classes vary, and their text may quote a row
        last = last_of_shortest(rows, lambda part: _fits(part, features))
        what = f"{path}, {_mixed(rows) or f'row {last.number}: it holds a value that does not fit the rows before it'}"
        with translated(what, quote=False):
            raise error


def read_features(path: Path) -> "Features | None":
    """Read the types of the columns, as `datasets` describes them; None if there is no such file.

    Raises:
        InputError: when the description cannot be used.
    """
    from datasets import Features

    if not path.is_file():
        return None
    described = read_json(path)
    with translated(f"{path} does not describe the fields of rows", "Remove it, or fetch the rows again"):
        return Features.from_dict(described)


def last_of_shortest(rows: Sequence[Row], works: Callable[[Sequence[Row]], bool]) -> Row:
    """Return the last row of the shortest prefix that fails, by bisection. All rows together must fail."""
    low, high = 1, len(rows)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if works(rows[:middle]) else (low, middle)
    return rows[low - 1]


def _table(rows: Sequence[Row], features: "Features | None") -> "Dataset":
    from datasets import Dataset

    fields = list(dict.fromkeys(key for row in rows for key in row.fields))
    return Dataset.from_list([{key: row.fields.get(key) for key in fields} for row in rows], features=features)


def _fits(rows: Sequence[Row], features: "Features | None") -> bool:
    try:
        _table(rows, features)
    except Exception:
        return False
    return True


def _mixed(rows: list[Row]) -> str | None:
    """Describe the first row whose field has another type than before; None where types differ only inside a field."""
    for field in dict.fromkeys(key for row in rows for key in row.fields):
        kinds: dict[str, int] = {}
        for row in rows:
            value: Any = row.fields.get(field)
            if value is not None:
                kinds.setdefault(type(value).__name__, row.number)
            if len(set(kinds) - {"int", "float"}) > 1 or (len(kinds) == 2 and {"int", "float"} != set(kinds)):
                (first, at), (other, where) = list(kinds.items())[:2]
                return f"row {where}: the field {field!r} is a {other}, in row {at} it is a {first}"
    return None
