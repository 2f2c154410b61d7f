"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real tasks, tokenizers, text and a small real model; tests that need it skip when it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real test data is not at {SHARED}")
    return SHARED
