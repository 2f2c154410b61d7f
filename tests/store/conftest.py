"""Fixtures of the tests that need real models and tasks."""

from pathlib import Path

import pytest

from tasks.store.models import ModelSource
from tests.store.inputs import random_opt, stories


@pytest.fixture(scope="session")
def models(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A real small LLaMA and a random OPT with the real tokenizer: one has its own begin token, one a shared one."""
    return {"llama": stories(shared), "opt": random_opt(shared, tmp_path_factory.mktemp("opt"))}
