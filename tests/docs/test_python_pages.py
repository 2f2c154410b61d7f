"""The notebook runs and says what the page says; every name of the API reference exists."""

import importlib
import re
from typing import Any

import pytest

from tests.docs.pages import DOCS, blocks_of

NOTEBOOK = DOCS / "tutorials" / "python.md"
REFERENCE = DOCS / "reference" / "python-api.md"
# The page's own number of steps is for the built site.
FULL, SHORT = "num_steps=30", "num_steps=4"


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [block.text for block in blocks_of(NOTEBOOK) if block.language == "{code-cell}"]
    code = "".join(cells)
    assert FULL in code
    assert len([line for line in code.splitlines() if line and not line.startswith("from ")]) <= 22
    names: dict[str, Any] = {}
    exec(compile(code.replace(FULL, SHORT), NOTEBOOK, "exec"), names)
    printed = capsys.readouterr().out
    assert "kept (0, 1, 2, 3, 4, 8) tuned (0, 2, 4, 8)" in printed
    scores = dict(re.findall(r"^(\S.*?) +acc (\S+)", printed, re.M))
    assert scores.keys() == {"full model", "tuned emulator", "plug-in"}
    assert float(scores["plug-in"]) > float(scores["full model"])


@pytest.mark.parametrize("name", re.findall(r"auto(?:function|class):: (\S+)", REFERENCE.read_text()))
def test_public_names_exist_and_are_explained(name: str) -> None:
    module, _, leaf = name.rpartition(".")
    found = getattr(importlib.import_module(module), leaf)
    assert found.__doc__
