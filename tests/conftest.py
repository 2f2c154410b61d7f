"""Fixtures that every test may use."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing

if TYPE_CHECKING:
    from tasks.models.source import ModelSource
    from tests.store.objects import Objects

pytest_plugins = ["tests.suite.unexpected_skips"]

# Under `nohup` the tests' own processes would inherit that SIGHUP is ignored; of a handler they inherit nothing.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with a few rows of each published task, tokenizers, text and a small real model; see its README."""
    return Path(__file__).resolve().parent / "data"


@pytest.fixture(scope="session")
def models(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> "dict[str, ModelSource]":
    """A real small LLaMA and a random OPT with a tokenizer as OPT's: one has its own begin token, one a shared one."""
    from tests.store.inputs import random_opt, stories

    return {"llama": stories(real_data), "opt": random_opt(real_data, tmp_path_factory.mktemp("opt"))}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite tracking database."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(uri: str) -> Any:
    """MLflow's own, to see what is in the database."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server that serves as long as this process tests."""
    from tasks.store.loopback import free_port
    from tests.prefect_server import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect"), free_port()) as address:
        yield address


@pytest.fixture(scope="module")
def one_prefect(prefect_url: str) -> Iterator[None]:
    """All commands of a module use that server, instead of a temporary one each."""
    from tests.prefect_server import VARIABLE

    os.environ[VARIABLE] = prefect_url
    yield
    del os.environ[VARIABLE]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Of a run with a store of its own."""
    return Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))


@pytest.fixture
def own(runtime: Runtime) -> Iterator[RunContext]:
    """What the stages of that run share: two cores."""
    with sharing(runtime, RunContext(Resources(2))) as shared:
        yield shared


@pytest.fixture(scope="session")
def object_server() -> "Iterator[Objects]":
    """An S3 server on loopback."""
    from tests.store.objects import serving

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with serving() as found:
        yield found


@pytest.fixture
def objects(object_server: "Objects", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Objects]":
    """An S3 server with an empty bucket, which this process and those that it starts reach."""
    object_server.new_bucket()
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    yield object_server
    if object_server.server is None:
        object_server.start()
