"""Findings: figures of what there is, the page and its numbers."""

import json
from typing import Any

import pytest

from tasks.store.artifacts import Ref
from tasks.study.importance import importance
from tasks.study.study_report import findings
from tests.tasks.chain import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("findings"))


def cell(label: str, **analyses: Ref) -> dict[str, Any]:
    facts = {"num_blocks": 6, "precision": "float32"}
    return {"label": label, "model": label, "task": "people", "facts": facts, "analyses": analyses}


def test_what_a_cell_lacks_is_not_drawn_and_the_others_are(chain: Chain) -> None:
    both = findings.run(chain.runtime, cells=[cell("one", similarity=chain.similar), cell("two")])
    folder = chain.open(both)
    content = json.loads((folder / "study.json").read_text())
    assert content["cells"] == ["one", "two"]
    assert both.summary["num_figures"] == len(content["figures"]) > 4
    shown = ("similarity-", "adjacent", "block", "channels")
    assert all(name.startswith(shown) for name in content["figures"]), content["figures"]
    assert {each["fact"]: each["values"] for each in content["numbers"]} == {
        name: {"one": chain.similar.summary[name]} for name in ("lowest_adjacent", "highest_adjacent")
    }
    assert both.summary["similarity.lowest_adjacent"] == pytest.approx(chain.similar.summary["lowest_adjacent"])
    for name in content["figures"]:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((folder / f"{name}.csv").read_text().splitlines()) > 1
    assert (folder / "study.html").read_text().count("<figure") == len(content["figures"])


def test_a_study_without_any_analysis_is_a_page_all_the_same(chain: Chain) -> None:
    none = findings.run(chain.runtime, cells=[cell("one")])
    assert none.summary == {"num_figures": 0}
    assert "<figure" not in (chain.open(none) / "study.html").read_text()


def test_where_most_blocks_are_better_left_out_the_page_says_so(chain: Chain) -> None:
    """A random model knows nothing of its data; of three blocks or fewer in six nothing is said."""
    found = importance.run(chain.runtime, model=chain.model, task=chain.task, num_rows=4)
    tensors = chain.tensors(found, "importance")
    assert found.summary["num_helpful"] == int((tensors["deleted"] < tensors["loss"]).sum())
    for number, words in ((4, "Caution: on one (4 of 6 blocks) most deletions lower the loss."), (3, "")):
        known = found.model_copy(update={"summary": found.summary | {"num_helpful": number}})
        done = findings.run(chain.runtime, cells=[cell("one", importance=known) | {"task": f"task {number}"}])
        page = (chain.open(done) / "study.html").read_text()
        assert words in page
        assert ("Caution" in page) == bool(words)
