"""Read rows of data files (JSONL, JSON, CSV, plain text) with their numbers; messages name numbers, never content."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from tasks.core.errors import InputError
from tasks.data.rows.formats import Row, read_csv, read_json, read_plain

SPLITS = ("train", "validation", "test")
STEMS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
ROW_FILES = (".jsonl", ".json", ".csv")
READERS = {".jsonl": read_json, ".json": read_json, ".csv": read_csv, ".txt": read_plain}


def find_splits(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Find the folder's file of each split, by name (`train.jsonl`, ...).

    Raises:
        InputError: when there is no file, or two for one split.
    """
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
    """Read all rows of a file, in order.

    Raises:
        InputError: when the file has no rows, or a row cannot be read; names its number.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(f"{path}: unknown kind of data file; known: {', '.join(READERS)}")
    rows = list(reader(path))
    if not rows:
        raise InputError(f"{path} is empty: it has no rows")
    return rows


def text_rows(
    path: Path, rows: Iterable[Row], needed: Iterable[str], optional: Iterable[str] = (), allow_empty: bool = False
) -> list[Row]:
    """Return the rows with the text of these fields and nothing else; an optional field may be absent.

    path: the file, for messages. allow_empty: whether needed fields may be blank.

    Raises:
        InputError: for the first row that lacks a needed field, has it blank, or has a list or an object in a field.
    """
    found = []
    for row in rows:
        texts = {field: field_text(path, row, field) for field in (*needed, *optional)}
        for field in needed:
            text = texts[field]
            if text is None:
                names = ", ".join(repr(name) for name in needed)
                raise InputError(f"{path}, row {row.number}: it lacks the field {field!r}; each row needs {names}")
            if not (allow_empty or text.strip()):
                raise InputError(f"{path}, row {row.number}: {field!r} is empty")
        found.append(Row(row.number, {field: text for field, text in texts.items() if text is not None}))
    return found


def field_text(path: Path, row: Row, field: str) -> str | None:
    """Return the text of a field: a number or boolean as JSON writes it; None for an absent field, null and NaN.

    Raises:
        InputError: when the value is a list or an object.
    """
    value = row.fields.get(field)
    if isinstance(value, str) or value is None:
        return value
    if not isinstance(value, bool | int | float):
        raise InputError(
            f"{path}, row {row.number}: {field!r} is a {type(value).__name__}, expected a string or a number"
        )
    # Python tools write NaN for a missing value in a column of numbers.
    return None if isinstance(value, float) and math.isnan(value) else json.dumps(value)
