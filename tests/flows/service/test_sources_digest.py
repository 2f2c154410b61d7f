"""`crash up` deploys again when anything changes of which deployments are made."""

import shutil
from pathlib import Path

import pytest

from flows.service.up import sources_digest
from tests.places import ROOT


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of what deployments are made of."""
    for folder in ("flows/service", "tasks/core/tuning", "infra"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize(
    "file", ["prefect.yaml", "infra/pools/process.json", "flows/service/up.py", "tasks/core/tuning/settings.py"]
)
def test_a_change_of_a_source_is_seen(file, code):
    before = sources_digest(code)
    assert sources_digest(code) == before
    (code / file).write_text((code / file).read_text() + "\n# changed\n")
    assert sources_digest(code) != before


def test_a_new_version_is_seen(code):
    before = sources_digest(code)
    project = code / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "', 'version = "9.', 1))
    assert sources_digest(code) != before
