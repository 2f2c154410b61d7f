"""The examples of the contributing pages do what the pages say: their code and their tests are run."""

import csv
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypedDict, cast

import pytest
import torch
from safetensors.torch import save_file

from docs import project
from tests.docs.pages import DOCS, ROOT, blocks_of
from tests.tasks.states import published_states

PAGES = sorted((DOCS / "contributing").glob("add-*.md"))
# What is at the top of the files that the examples belong to.
IMPORTS = {
    **{name: getattr(project, name) for name in project.__all__},
    **{"csv": csv, "pytest": pytest, "torch": torch, "Tensor": torch.Tensor},
    **{"Annotated": Annotated, "TypedDict": TypedDict, "cast": cast},
    **{"Callable": Callable, "Iterable": Iterable, "Iterator": Iterator, "Mapping": Mapping, "Sequence": Sequence},
    **{"Any": Any, "Path": Path, "StatesOf": Callable[[torch.Tensor], project.Ref]},
}
# The tree that the pages describe.
MOVED = (ROOT / "tasks" / "engine").is_dir()


@pytest.fixture
def store(tmp_path: Path) -> project.Store:
    return project.Store(tmp_path / "store")


@pytest.fixture
def given(tmp_path: Path, store: project.Store) -> dict[str, Any]:
    """Fixtures of the examples' tests, by name."""
    for name in ("out", "scratch", "drawn", "norms"):
        (tmp_path / name).mkdir()
    save_file({"norm": torch.tensor([5.0, 0.0, 10.0])}, tmp_path / "norms" / "norms.safetensors")
    analysis = project.Analysis(tmp_path / "norms", {"num_blocks": 2})
    return {
        "tmp_path": tmp_path / "drawn",
        "work": project.Work(tmp_path / "out", tmp_path / "scratch", store),
        "states_of": lambda states: published_states(store, states),
        "cells": [project.StudyCell("model · people", "model", "people", {}, {"norms": analysis})],
    }


def run_example(page: Path, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Names that the page's Python blocks define, and the values of blocks that are one expression."""
    module = ModuleType(f"example_{page.stem.replace('-', '_')}")
    vars(module).update(IMPORTS)
    if page.stem == "add-a-figure":
        # The figure is of the stage of the other page, and reads its artifact.
        stage, _ = run_example(page.with_stem("add-a-stage"), folder)
        vars(module)["read_norms"] = stage["read_norms"]
    values = []
    for number, block in enumerate(blocks_of(page)):
        if block.language != "python":
            continue
        # From a file, so that an error shows its line.
        file = folder / f"{module.__name__}_{number}.py"
        file.write_text(block.text)
        if re.match(r"[A-Z]\w*\(", block.text):
            values.append(eval(compile(block.text.strip(), file, "eval"), vars(module)))
        else:
            exec(compile(block.text, file, "exec"), vars(module))
    return vars(module), values


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path, given: dict[str, Any], tmp_path: Path) -> None:
    names, _ = run_example(page, tmp_path)
    tests = [function for name, function in names.items() if name.startswith("test_")]
    assert tests or page.stem == "add-a-family", "an example has a test"
    for function in tests:
        function(**{name: given[name] for name in inspect.signature(function).parameters})


def test_the_entry_of_the_example_is_a_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (entry,) = run_example(DOCS / "contributing" / "add-a-strategy.md", tmp_path)
    monkeypatch.setitem(project.STRATEGIES, entry.name, entry)
    options = {"num_kept": 6, "num_tuned": 4, "placement": None, "share": None}
    assert project.make_plan("sandwich", 12, options).kept == (0, 1, 2, 9, 10, 11)
    assert (entry.placement, entry.is_sampled) == ("ends", False)


@pytest.mark.skipif(not MOVED, reason="the contributing pages describe the tree that the sources are moved to")
@pytest.mark.parametrize("page", sorted((DOCS / "contributing").glob("*.md")), ids=lambda page: page.stem)
def test_named_files_exist(page: Path) -> None:
    """Files of the example itself excepted."""
    named = re.findall(r"`((?:flows|tasks|tests|docs)/[\w./-]*)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists() and "norms" not in name]
    assert missing == []
