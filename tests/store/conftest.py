"""Fixtures of the tests that need real models, or a place to track in."""

from pathlib import Path
from typing import Any

import pytest

from tasks.models.source import ModelSource
from tests.store.inputs import random_opt, stories


@pytest.fixture(scope="session")
def models(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A real small LLaMA and a random OPT with a tokenizer as OPT's: one has its own begin token, one a shared one."""
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
