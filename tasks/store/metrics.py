"""The metrics file of a stage: one JSON object per line, appended while it computes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a metrics file; a line cut short by a kill is skipped."""
    return read_metrics_from(path, 0)[0]


def read_metrics_from(path: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Return the entries after byte `begin`, and the position after the last whole line."""
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return entries, begin
    with open(path, "rb") as file:
        file.seek(begin)
        while (line := file.readline()).endswith(b"\n"):
            begin = file.tell()
            with suppress(ValueError):
                entries.append(json.loads(line))
    return entries, begin
