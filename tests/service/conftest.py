"""One service for all tests of this folder that do not change how it was started."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.service import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.service)


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """PostgreSQL, Prefect, MLflow, reaper and workers."""
    folder = Path(tempfile.mkdtemp(prefix="crash-service-"))
    running = Service(folder / "home", "--limit", "1")
    started = running.up()
    assert started.returncode == 0, started.stdout + started.stderr
    yield running
    running.down()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def healthy(service: Service) -> Service:
    """The service, with everything started again that a test before this one ended."""
    if not service.all_running():
        done = service.up()
        assert done.returncode == 0, done.stdout + done.stderr
    return service
