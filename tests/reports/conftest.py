"""Fixtures that the tests of pictures share."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every figure that is saved, by file stem. No file is written: a test looks at what the figure shows."""
    from matplotlib.figure import Figure

    figures: dict[str, Any] = {}
    keep = lambda made, path, **_: figures.update({Path(path).stem: made})  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
