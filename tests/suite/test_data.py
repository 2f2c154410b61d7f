"""The tests' data: small, described in full, and made up where the README says so."""

import re
from pathlib import Path

import pytest

from tests.make_data.made_up_rows import TASKS, write

SPLITS = ("train", "validation", "test")
# In bytes. Everybody who clones the repository fetches it.
LIMIT = 1_600_000


def test_the_folder_is_small(real_data: Path) -> None:
    files = (path for path in real_data.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert sum(path.stat().st_size for path in files) < LIMIT


@pytest.mark.parametrize("kind", ["tasks", "text"])
def test_the_readme_has_the_number_of_rows_of_every_file(real_data: Path, kind: str) -> None:
    readme = (real_data / "README.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(?:text/)?(\w+)` \| (\S+ / \S+ / \S+) \|", section(readme, kind), re.MULTILINE))
    found = {}
    for folder in (real_data / kind).iterdir():
        files = [folder / f"{split}.jsonl" for split in SPLITS]
        found[folder.name] = " / ".join(str(num_rows(file)) if file.exists() else "-" for file in files)
    assert found == table


def section(readme: str, kind: str) -> str:
    """The part under the heading of this kind."""
    return readme.split(f"## {kind.capitalize()}\n")[1].split("\n## ")[0]


def num_rows(file: Path) -> int:
    return len(file.read_bytes().splitlines())


@pytest.mark.parametrize("name", TASKS)
def test_the_made_up_rows_are_those_of_the_script(real_data: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path)
    for split in SPLITS:
        made = (tmp_path / name / f"{split}.jsonl").read_bytes()
        assert made == (real_data / "tasks" / name / f"{split}.jsonl").read_bytes()
        assert len(set(made.splitlines())) == len(made.splitlines())
