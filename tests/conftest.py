"""Fixtures that every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.store.resources import Resources
from tasks.store.stage import Runtime, Shared, sharing

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real tasks, tokenizers, text and a small real model; tests that need it skip when it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real test data is not at {SHARED}")
    return SHARED


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Of a run with a store of its own."""
    return Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))


@pytest.fixture
def own(runtime: Runtime) -> Iterator[Shared]:
    """What the stages of that run share: two cores."""
    with sharing(runtime, Shared(Resources(2))) as shared:
        yield shared
