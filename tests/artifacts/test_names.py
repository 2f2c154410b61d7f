"""The name of each file of an artifact is in the code of one module only."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.places import ROOT

NAME = re.compile(r"[\w-]+\.(safetensors|jsonl?|md|csv|html|toml|png)")
# The modules that say which files an artifact has.
KINDS = ["tasks/artifacts", "tasks/models/lens_files.py", "tasks/models/emulators/compressed_emulator.py"]
KINDS += ["tasks/store/manifests.py", "tasks/store/metrics.py"]
# Files of every Hugging Face folder, which are not ours to name.
FOREIGN = {"config.json"}


def texts(path: Path) -> Iterator[str]:
    """Texts in the code of a module, without docstrings; of an f-string its parts."""
    tree = ast.parse(path.read_text())
    documented = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    docstrings = {id(node.value) for node in documented}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def sources(*folders: str) -> list[Path]:
    """Modules under these folders, or these modules."""
    found = [path for folder in folders for path in ([ROOT / folder] if folder.endswith(".py") else [])]
    return found + [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_each_name_is_spelt_in_one_module() -> None:
    names = {text for path in sources(*KINDS) for text in texts(path) if NAME.fullmatch(text)} - FOREIGN
    assert {"plan.json", "states.safetensors", "manifest.json", "lens.safetensors", "table.md"} <= names
    spelt: dict[str, set[str]] = defaultdict(set)
    for path in sources("tasks", "flows"):
        # The files of bundles, which cross from party to party, have names of a format that stays.
        if path.is_relative_to(ROOT / "tasks" / "exchange"):
            continue
        # Rows and pictures of a study's figures have their own names, such as importance.png.
        for text in names.intersection(texts(path)):
            spelt[text].add(str(path.relative_to(ROOT)))
    assert {name: sorted(modules) for name, modules in spelt.items() if len(modules) > 1} == {}


def test_stages_spell_no_names_of_files() -> None:
    stages = [*(ROOT / "tasks").glob("*.py"), *(ROOT / "tasks" / "study").glob("*.py")]
    flows = sources("flows/running", "flows/searches", "flows/sweeps", "flows/studies", "flows/sweep.py")
    assert len(stages) > 25
    assert len(flows) > 15
    ending = re.compile(r"(^|[\w-])\.(safetensors|json|md|csv|html|toml|png)$")
    found = {(path.name, text) for path in [*stages, *flows] for text in texts(path) if ending.search(text)}
    # Kinds of files that MLflow is sent, whatever their names.
    assert found == {("show.py", suffix) for suffix in (".png", ".csv", ".html", ".md", ".json")}
