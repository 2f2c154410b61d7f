"""The metrics file of a stage: one JSON object a line, appended while it computes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Entries of a metrics file; a line cut short by a kill is passed over."""
    return read_metrics_from(path, 0)[0]


def read_metrics_from(path: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Entries behind byte `begin`, and the byte behind the last whole line."""
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
