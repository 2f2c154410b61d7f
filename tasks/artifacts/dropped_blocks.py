"""The blocks that were dropped one after another, `dropped.json`: the artifact of `iterative_drop`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from tasks.artifacts.files import read_json, require_file
from tasks.core.errors import InputError

DROPPED_FILE = "dropped.json"


class DroppedSummary(TypedDict):
    """Summary of `iterative_drop`. dropped: indices of blocks, in order."""

    dropped: list[int]
    num_passes: int
    num_rows: int


def write_dropped(folder: Path, dropped: Sequence[int]) -> None:
    """Write the indices of the dropped blocks, in order."""
    (folder / DROPPED_FILE).write_text(json.dumps(dropped))


def read_dropped(folder: Path) -> list[int]:
    """Read the indices of the dropped blocks, in order.

    Raises:
        InputError: when the file is missing or not a list of indices.
    """
    path = require_file(folder, DROPPED_FILE, "dropped blocks")
    found = read_json(path)
    if not isinstance(found, list) or not all(type(index) is int for index in found):
        raise InputError(f"{path}: expected a list of block indices")
    return found
