"""The folder of the tests' data, and how its files are written."""

from collections.abc import Iterable
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
