"""Readers of data files: JSON in any layout, CSV, plain text. Messages name rows and fields, never content."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.errors import InputError
from tasks.models.user_text import open_user_text, read_user_text

# A file that was concatenated from several has byte-order marks inside.
BLANK = " \t\r\n\ufeff"
# One half of a UTF-16 surrogate pair: UTF-8 text cannot contain it, but an escape in JSON can.
SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Row(NamedTuple):
    """One row: its number in its file, counted from 1, and its fields."""

    number: int
    fields: dict[str, Any]


def read_json(path: Path) -> Iterator[Row]:
    """Read the rows of a list of objects, or of one object per line, whatever the file's suffix.

    Raises:
        InputError: when the content is neither; names the line or row.
    """
    with open_user_text(path) as file:
        lines = ((number, text) for number, line in enumerate(file, start=1) if (text := line.strip(BLANK)))
        number, first = next(lines, (1, ""))
        if not first:
            return
        if first.startswith("["):
            yield from _listed(path, number, first + "\n" + file.read())
        else:
            yield from _line_by_line(path, number, first, lines)


def read_csv(path: Path) -> Iterator[Row]:
    """Read the rows of a table with a header, without columns that have no name, such as the index that pandas writes.

    Raises:
        InputError: when the table cannot be read, two columns have the same name, or a row has more values than names.
    """
    with open_user_text(path, newline="") as file, _values_of_any_length():
        try:
            reader = csv.DictReader(file, strict=True)
            names = [name for name in reader.fieldnames or [] if name.strip()]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise InputError(f"{path}: two columns are called {twice!r}; give each its own name")
            for number, fields in enumerate(reader, start=1):
                # The reader keeps surplus values under None.
                if None in fields:
                    raise InputError(f"{path}, row {number}: it has more values than the header names")
                yield Row(number, {name: fields[name] for name in names})
        except csv.Error as error:
            raise InputError(f"{path} is not valid CSV ({error})") from None


def read_plain(path: Path) -> Iterator[Row]:
    """Read the whole file as one row with the field `text`; no row if it is blank."""
    text = read_user_text(path)
    if text.strip():
        yield Row(1, {"text": text})


def _listed(path: Path, first_line: int, text: str) -> Iterator[Row]:
    """Parse the rows of a JSON list that begins on the line `first_line`."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = first_line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else first_line
        raise InputError(f"{path}, line {line}: not valid JSON ({_problem(error)})") from None
    if path.suffix == ".jsonl" and values and not isinstance(values[0], dict):
        values = [values]  # JSON Lines whose only line is a list
    escaped = ESCAPED_SURROGATE.search(text) is not None
    for number, value in enumerate(values, start=1):
        yield _row(path, number, value, escaped)


def _line_by_line(path: Path, number: int, first: str, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    """Parse the rows of JSON Lines; `first` is the first line that is not blank, in line `number`."""
    try:
        row = _parsed(path, number, first)
    except InputError:
        _refuse_lone_object(path, first + "\n" + "\n".join(text for _, text in lines))
        raise
    second = next(lines, None)
    if second is None and path.suffix == ".json":
        _refuse_wrapper(path, row.fields)
    yield row
    if second is not None:
        yield _parsed(path, *second)
    for place, line in lines:
        yield _parsed(path, place, line)


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}, row {number}: not valid JSON ({_problem(error)}{place})") from None
    return _row(path, number, value, ESCAPED_SURROGATE.search(line) is not None)


def _row(path: Path, number: int, value: Any, escaped: bool) -> Row:
    """Return the row of a JSON value. escaped: whether its text may contain lone surrogates."""
    if not isinstance(value, dict):
        raise InputError(f"{path}, row {number}: it is a {type(value).__name__}, expected an object with named fields")
    if escaped and (place := find_surrogate(value)) is not None:
        raise InputError(
            f"{path}, row {number}: the field {place!r} holds half a character (a lone surrogate, as text cut"
            " inside an emoji leaves it); correct the row or leave it out"
        )
    return Row(number, value)


def find_surrogate(fields: dict[str, Any]) -> str | None:
    """Find the first field with a lone surrogate in its name or value, such as `choices.text[2]`; None if none has."""
    # Not recursive: JSON may be nested as deep as Python's own stack allows.
    left: list[tuple[str, Any]] = [("", fields)]
    while left:
        place, value = left.pop()
        if isinstance(value, str) and SURROGATE.search(value):
            return place
        parts: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            parts = [(f"{place}.{key}" if place else key, part) for key, part in value.items()]
            if broken := next((name for name, _ in parts if SURROGATE.search(name)), None):
                return broken
        elif isinstance(value, list):
            parts = [(f"{place}[{at}]", part) for at, part in enumerate(value)]
        left += reversed(parts)
    return None


def _refuse_lone_object(path: Path, text: str) -> None:
    """Refuse a text that is one object over several lines, neither a list of rows nor one row per line.

    Raises:
        InputError: when the whole text is one object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    _refuse_wrapper(path, value)
    raise InputError(f"{path} holds one object over several lines, expected a list of rows, or one row a line")


def _refuse_wrapper(path: Path, value: dict[str, Any]) -> None:
    """Refuse an object around the list of rows.

    Raises:
        InputError: when exactly one of its fields is a list of objects.
    """
    lists = [key for key, part in value.items() if isinstance(part, list) and part and _all_objects(part)]
    if len(lists) == 1:
        raise InputError(
            f"{path} holds one object, expected a list of rows; the rows seem to be under {lists[0]!r}: keep that list"
            " alone"
        )


def _all_objects(values: Iterable[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _problem(error: Exception) -> str:
    """Return the parser's message, without text of the file."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


@contextmanager
def _values_of_any_length() -> Iterator[None]:
    """Lift the limit of Python's CSV reader on the length of a value, 128 KiB, which a document may exceed."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
