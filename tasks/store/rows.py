"""Rows of data files (JSONL, JSON, CSV, plain text), each with its number; messages name numbers, never content."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.errors import InputError

SPLITS = ("train", "validation", "test")
STEMS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
ROW_FILES = (".jsonl", ".json", ".csv")


class Row(NamedTuple):
    """One row: its number in its file, counted from 1, and its fields."""

    number: int
    fields: dict[str, Any]


def find_splits(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The folder's file of each split, by name (`train.jsonl`, ...). InputError if there is none, or two for one."""
    found: dict[str, Path] = {}
    for split, stems in STEMS.items():
        files = [folder / (stem + suffix) for stem in stems for suffix in suffixes]
        files = [file for file in files if file.is_file()]
        if len(files) > 1:
            raise InputError(f"{folder} has {' and '.join(file.name for file in files)}: keep one file for {split}")
        if files:
            found[split] = files[0]
    if not found:
        names = ", ".join(f"train{suffix}" for suffix in suffixes)
        raise InputError(f"{folder} has no data files: expected {names}, and the same for validation and test")
    return found


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, in order. InputError for a file without rows or a row that cannot be read, by number."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".txt": _text}
    reader = readers.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: unknown kind of data file; known: {', '.join(readers)}")
    try:
        rows = list(reader(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if not rows:
        raise InputError(f"{path} is empty: it has no rows")
    return rows


def require_text(path: Path, rows: Iterable[Row], needed: Iterable[str], allow_empty: bool = False) -> None:
    """InputError for the first row whose `needed` fields are missing, no strings, or (unless allowed) blank."""
    for row in rows:
        for field in needed:
            value = row.fields.get(field)
            if value is None:
                raise InputError(
                    f"{path}, row {row.number}: it lacks the field {field!r}; each row needs {_listed(needed)}"
                )
            if not isinstance(value, str):
                raise InputError(f"{path}, row {row.number}: {field!r} is a {type(value).__name__}, expected a string")
            if not (allow_empty or value.strip()):
                raise InputError(f"{path}, row {row.number}: {field!r} is empty")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _jsonl(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Row(number, _object(path, number, line))


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, row {number}: no valid JSON ({error.msg} at column {error.colno})") from None
    return _fields(path, number, value)


def _fields(path: Path, number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}, row {number}: it is a {type(value).__name__}, expected an object with named fields")
    return value


def _json(path: Path) -> Iterator[Row]:
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: no valid JSON ({error.msg})") from None
    if not isinstance(values, list):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a list of rows")
    for number, value in enumerate(values, start=1):
        yield Row(number, _fields(path, number, value))


def _csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            for number, fields in enumerate(csv.DictReader(file, restkey="", strict=True), start=1):
                if "" in fields:
                    raise InputError(f"{path}, row {number}: it has more values than the header names")
                yield Row(number, fields)
        except csv.Error as error:
            raise InputError(f"{path} is no valid CSV ({error})") from None


def _text(path: Path) -> Iterator[Row]:
    text = path.read_text("utf-8-sig")
    if text.strip():
        yield Row(1, {"text": text})
