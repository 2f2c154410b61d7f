"""What of a study goes to MLflow: nothing that shows words of rows, unless that is asked for."""

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.running.show import show_study
from tasks.reports.study.trajectory import readable
from tasks.study.study_report import findings
from tasks.study.trajectory import trajectory
from tests.tasks.chain import Chain

FACTS = {"num_blocks": 6, "precision": "float32", "weights": "0123456789abcdef" * 4, "tuned": {"weights": "crash"}}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("shown"))


class Tracked:
    """Takes what MLflow would get."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.texts: list[str] = []

    def files(self, paths: list[Path], folder: str = "") -> None:
        self.paths += paths

    def values(self, numbers: dict[str, float]) -> None:
        self.texts.append(json.dumps(numbers))

    def describe(self, text: str, tags: dict[str, str]) -> None:
        self.texts.append(text)

    def content(self) -> bytes:
        """All of it, with what pages hold inside decoded."""
        read = [path.read_bytes() for path in self.paths] + [text.encode() for text in self.texts]
        inside = [base64.b64decode(found) for each in read for found in re.findall(rb";base64,([A-Za-z0-9+/=]+)", each)]
        return b"\n".join(read + inside)


def tracked(chain: Chain, monkeypatch: pytest.MonkeyPatch, track_text: bool) -> tuple[Tracked, Path]:
    """What is passed on of a study of one row's trajectory, and the folder of its findings."""
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", lambda **given: None)
    given: dict[str, Any] = {"model": chain.model, "task": chain.task, "num_positions": 12, "precision": "float32"}
    told = trajectory.run(chain.runtime, **given, num_rows=1, split="validation")
    analyses = {"similarity": chain.similar, "trajectory": told}
    cell = {"label": "one", "model": "tiny", "task": "people", "facts": FACTS, "analyses": analyses}
    report = findings.run(chain.runtime, cells=[cell])
    settings = SimpleNamespace(study=SimpleNamespace(track_text=track_text))
    taken, run = Tracked(), SimpleNamespace(report=report, runtime=chain.runtime, settings=settings)
    show_study(run, taken)  # type: ignore[arg-type]
    return taken, chain.open(report)


def words(chain: Chain, folder: Path) -> list[bytes]:
    """How a row's words stand in the picture, in its table, and under the pointer."""
    (written,) = chain.store.root.glob("artifacts/trajectory/*/trajectory.json")
    (row,) = json.loads(written.read_text())["rows"]
    names = json.dumps([readable(token) for token in row["tokens"]]).encode()
    return [names, *((folder / f"lens_trajectory_1_1{suffix}").read_bytes() for suffix in (".png", ".csv"))]


def test_no_word_of_a_row_is_tracked(chain, monkeypatch):
    taken, folder = tracked(chain, monkeypatch, track_text=False)
    content = taken.content()
    assert not [each for each in words(chain, folder) if each in content]
    assert b"similarity-linear-cka" in content
    assert b"Left out here: 1 figure with words of rows." in content
    assert not [path for path in taken.paths if path.name == "study.html" or path.name.startswith("lens_trajectory")]


def test_who_asks_for_it_gets_everything(chain, monkeypatch):
    taken, folder = tracked(chain, monkeypatch, track_text=True)
    content = taken.content()
    assert all(each in content for each in words(chain, folder))
    assert {path.name for path in taken.paths} >= {"study.html", "lens_trajectory_1_1.png"}


def test_facts_that_captions_use_are_not_in_the_table(chain, monkeypatch):
    _, folder = tracked(chain, monkeypatch, track_text=True)
    assert FACTS["weights"][:12] not in (folder / "study.html").read_text() + (folder / "study.md").read_text()
