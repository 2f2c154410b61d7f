"""Keys of rows by content, whatever their number or name: rows with the same content count as one, in any split."""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tasks.data.instructions import NEEDED, OPTIONAL
from tasks.data.lm_eval import definitions
from tasks.data.lm_eval.readings import same_without
from tasks.data.rows.reading import Row
from tasks.data.sources import DATA_KEYS, NOTES, TaskSource

Key = bytes
KEY_BYTES = 16
ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)
# Rows that are worded with and without the fields that a definition does not name.
NUM_TRIED = 8


def content_key(task: TaskSource, sample: Sequence[Row]) -> Callable[[Row], Key | None]:
    """Return a function that gives rows of equal content equal keys, and None for a row without content.

    Content is all that a prompt or an answer can show: the fields that the task words, with any whitespace as one
    space. A field of an lm-eval task that its definition and code do not name, such as a row's id, is left out if the
    scored rows of `sample` read the same without it.
    """
    fields = {"text": ("text",), "instructions": (*NEEDED, *OPTIONAL)}.get(task.kind)
    left_out = frozenset() if fields else _unread(task, sample)
    usual = {name for row in sample for name in row.fields} - left_out

    @lru_cache(maxsize=64)
    def counted(present: tuple[str, ...]) -> tuple[str, ...]:
        # A row that lacks fields of the others may have nothing but its id to identify it.
        return fields or tuple(name for name in sorted(present) if name not in left_out or not usual <= {*present})

    def key(row: Row) -> Key | None:
        names = counted(tuple(row.fields))
        content = [_plain(row.fields.get(name), as_text=bool(fields)) for name in names]
        if not any(content):
            return None
        # A field that is null or empty counts as absent.
        said = [[name, value] for name, value in zip(names, content, strict=True) if value not in (None, "")]
        return blake2b(ENCODER.encode(said).encode(errors="replace"), digest_size=KEY_BYTES).digest()

    return key


def _plain(value: Any, as_text: bool) -> Any:
    """Return the value with single spaces; as_text: numbers as text (see `tasks.data.rows.reading.field_text`)."""
    if as_text and isinstance(value, int | float):
        return json.dumps(value)
    return " ".join(value.split()) if isinstance(value, str) else value


def _unread(task: TaskSource, sample: Sequence[Row]) -> frozenset[str]:
    """Find the fields without which the rows of the sample read the same."""
    assert task.yaml is not None
    words = _words(task.yaml)
    present = {name for row in sample for name in row.fields}
    unnamed = frozenset(name for name in present if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words))
    if not unnamed or unnamed == present:
        return frozenset()
    if same_without(task, sample, unnamed):
        return unnamed
    # Code may compose a name at run time: such fields count, the others may still be left out.
    return frozenset(name for name in unnamed if same_without(task, sample, frozenset({name})))


@lru_cache(maxsize=8)
def _words(definition: str) -> str:
    """Return the text of a definition and of its code."""
    path = Path(definition)
    config = {key: value for key, value in definitions.merged(path).items() if key not in DATA_KEYS | NOTES}
    return "\n".join(
        [str(config), *(file.read_text("utf-8", errors="replace") for file in definitions.code_files(path))]
    )
