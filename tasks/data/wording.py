"""Digests of worded rows, which show whether a task's own code words the same rows the same way in every process."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from tasks.core.errors import InputError
from tasks.data.sources import LIMITS, Split, TaskSource

MARK_BYTES = 16
DIGEST_BYTES = 8


def mark_of(doc: dict[str, Any] | None, texts: Sequence[Any]) -> bytes:
    """Mark of one row: a hash of the row as the task's code made it, and of the texts of all its requests."""
    # The other arguments are generation settings, which are the same for every row.
    parts = [doc, [text for text in texts if isinstance(text, str)]]
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=lambda value: type(value).__name__)
    return blake2b(text.encode(errors="replace"), digest_size=MARK_BYTES).digest()


def digest_of(marks: Iterable[bytes]) -> str:
    """Digest of rows in order: their number, and 16 hexadecimal digits."""
    every = list(marks)
    return f"{len(every)}:{blake2b(b''.join(every), digest_size=DIGEST_BYTES).hexdigest()}"


def checked_task(task: TaskSource, facts: Mapping[str, Any]) -> TaskSource:
    """Return the task with the digests that the check found, so that stages refuse rows that are worded differently."""
    return task.model_copy(update={"worded": {split: facts[f"{split}_digest"] for split in LIMITS}})


def require_same(task: TaskSource, split: Split, digest: str) -> None:
    """Compare the rows of a split with those of the check; skip the comparison if their number differs.

    Raises:
        InputError: when they are worded differently.
    """
    expected = task.worded.get(split, digest)
    if expected != digest and expected.partition(":")[0] == digest.partition(":")[0]:
        raise reworded(task.name, split)


def reworded(name: str, split: str) -> InputError:
    """Return the error for a task whose rows differ from process to process."""
    return InputError(
        f"task {name!r}: its own code words the {split} rows anew each time, so that scores of different rows would"
        " be compared. Let it draw from the generators of random, numpy or torch, which are seeded here, or from one"
        " with a fixed seed, and read neither clock nor system"
    )
