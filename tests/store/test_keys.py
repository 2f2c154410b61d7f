"""Keys change exactly when a result may (F23)."""

import ast
import enum
import json
import math
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks.core.errors import InputError
from tasks.store import keys
from tasks.store.code_digest import MOST_TRIES, code_digest, forget_code
from tasks.store.keys import canonical, canonical_json, stage_key
from tests.places import ROOT

CODE = {
    "pack/__init__.py": "",
    "pack/stage.py": "from pack.helpers import double\n\ndef run(x):\n    return double(x)\n",
    "pack/helpers.py": "from pack import deep\n\ndef double(x):\n    return 2 * deep.same(x)\n",
    "pack/deep.py": "def same(x):\n    return x\n",
    "pack/unused.py": "VALUE = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules that import one another, and one that nobody imports."""
    for name, text in CODE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "pack"


def digest(module: str = "pack.stage") -> str:
    """The digest as a new process would compute it."""
    forget_code()
    return code_digest(module)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stage.py", "from pack.helpers import double\n\ndef run(x):\n    return double(x) + 1\n"),
        ("helpers.py", "from pack import deep\n\ndef double(x):\n    return 3 * deep.same(x)\n"),
        ("deep.py", "def same(x):\n    return x + 0\n"),
        ("helpers.py", "def double(x):\n    from pack import unused\n    return 2 * unused.VALUE\n"),
    ],
)
def test_f23_changed_code_changes_the_digest(package, file, text):
    before = digest()
    (package / file).write_text(text)
    assert digest() != before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stage.py", "# a comment\nfrom pack.helpers import double\ndef run(x):\n\n    return (double(x))\n"),
        ("deep.py", '"""A docstring."""\ndef same(x):\n    """Another."""\n    return x\n'),
        ("unused.py", "VALUE = 2\n"),
    ],
)
def test_f23_comments_layout_and_unused_code_do_not(package, file, text):
    before = digest()
    (package / file).write_text(text)
    assert digest() == before


def test_a_docstring_under_an_attribute_is_no_code(package):
    """The meaning of a setting is written there, for the reference of settings."""
    fields = "def same(x):\n    return x\n\nclass Options:\n    size: int = 4\n{}    rate: float = 0.5\n"
    digests = []
    for text in ("", '    """Rows of a step."""\n', '    """Rows of one optimizer step."""\n', "    more: int = 1\n"):
        (package / "deep.py").write_text(fields.format(text))
        digests.append(digest())
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_relative_imports_and_cycles(package):
    (package / "helpers.py").write_text("from . import deep, stage\n\ndef double(x):\n    return deep.same(x)\n")
    before = digest()
    (package / "deep.py").write_text("def same(x):\n    return -x\n")
    assert digest() != before


def test_f23_a_moved_function_changes_nothing(package):
    """As if by hand: to another module, imported from there, or into the module that uses it."""
    before = digest()
    (package / "moved.py").write_text(CODE["pack/helpers.py"])
    (package / "helpers.py").unlink()
    (package / "stage.py").write_text(CODE["pack/stage.py"].replace("pack.helpers", "pack.moved"))
    assert digest() == before
    (package / "stage.py").write_text(
        "from pack import deep\n\ndef double(x):\n    return 2 * deep.same(x)\n\ndef run(x):\n    return double(x)\n"
    )
    assert digest() == before


def test_f23_a_name_that_comes_from_another_module_counts(package):
    """Both functions are part of the code before and after; which of them the stage calls has changed."""
    (package / "other.py").write_text("def double(x):\n    return x + x\n")
    both = "from pack import other\nfrom pack.{} import double\n\ndef run(x):\n    return other.double(double(x))\n"
    helpers = "\nUSED = 1\n"
    (package / "stage.py").write_text(both.format("helpers") + helpers)
    before = digest()
    (package / "stage.py").write_text(both.format("other") + "from pack import helpers\n" + helpers)
    assert digest() != before


@pytest.mark.parametrize("name", ["page.html.j2", "style.css", "hover.js"])
def test_f23_templates_count_where_their_package_is_imported(package, name):
    (package / "templates").mkdir()
    (package / "templates/__init__.py").write_text("def render(x):\n    return x\n")
    (package / "templates" / name).write_text("a")
    before = digest()
    (package / "templates" / name).write_text("b")
    assert digest() == before, "the stage does not use them"
    (package / "deep.py").write_text("from pack.templates import render\n\ndef same(x):\n    return render(x)\n")
    found = [digest()]
    for text in ("b", "a"):
        (package / "templates" / name).write_text(text)
        found.append(digest())
    (package / "templates" / name).rename(package / "templates" / f"another-{name}")
    found.append(digest())
    assert found[0] == found[1]
    assert len(set(found)) == 3, "another text and another name"
    (package / "templates/notes.txt").write_text("no template")
    assert digest() == found[-1]


def test_imports_nothing(package):
    (package / "stage.py").write_text("raise RuntimeError('imported')\n")
    assert len(digest()) == 64


def test_a_package_that_parses_in_another_thread_is_waited_for(package, monkeypatch):
    """As MLflow does while it is imported: CPython 3.11 fails when two threads build syntax trees at once."""
    before, plain, failures = digest(), ast.parse, iter([True, True, False, True])

    def parse(*arguments: Any) -> ast.Module:
        if next(failures, False):
            raise SystemError("AST constructor recursion depth mismatch (before=63, after=381)")
        return plain(*arguments)

    # Only as long as this runs, since pytest parses the source of a test that fails.
    with monkeypatch.context() as patched:
        patched.setattr(ast, "parse", parse)
        patched.setattr("tasks.store.code_digest.PAUSE_SECONDS", 0)
        # What was parsed is kept by its text.
        (package / "deep.py").write_text(CODE["pack/deep.py"] + "# again\n")
        (package / "helpers.py").write_text(CODE["pack/helpers.py"] + "# again\n")
        assert digest() == before
        assert next(failures, None) is None
        failures = iter([True] * MOST_TRIES)
        (package / "deep.py").write_text(CODE["pack/deep.py"] + "# once more\n")
        with pytest.raises(SystemError, match="depth mismatch"):
            digest()


def test_many_threads_at_once(package):
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


class Colour(enum.Enum):
    """Some choice."""

    RED = "red"


@dataclass(frozen=True)
class Point:
    """A plain dataclass."""

    x: int
    y: float


class Options(BaseModel):
    """A pydantic model."""

    rate: float = 1e-4
    names: tuple[str, ...] = ("a",)


class Viewed:
    """Says itself what matters of it."""

    def cache_view(self) -> dict[str, Any]:
        return {"digest": "d"}


def test_canonical_forms():
    value = {"a": [Point(1, 2.0), Options(), Viewed(), Colour.RED, {3, 1, 2}], "b": None}
    assert canonical(value) == {
        "a": [{"x": 1, "y": 2.0}, {"rate": 1e-4, "names": ["a"]}, {"digest": "d"}, "red", [1, 2, 3]],
        "b": None,
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path("/data"), "a path never identifies content"),
        (object(), "its content cannot be identified"),
        (math.nan, "only finite numbers"),
        (math.inf, "only finite numbers"),
        ({1: "a"}, "use text keys"),
        ([0, {"deep": Path("x")}], r"setting\[1\].deep is a"),
    ],
)
def test_what_cannot_be_identified_is_refused_by_name(value, message):
    with pytest.raises(InputError, match=message):
        canonical(value, "setting")


def test_canonical_json_ignores_the_order_of_keys():
    names = [f"key {number}" for number in range(20)]
    texts = set()
    for seed in range(5):
        random.Random(seed).shuffle(names)
        texts.add(canonical_json({name: len(name) for name in names}))
    assert len(texts) == 1


def key(**changes: Any) -> str:
    """The key of one call."""
    arguments = {"rate": 1e-4, "seed": 0, "input": Viewed()} | changes
    return stage_key("tune", "tasks.tune", arguments, ("torch",))[0]


def test_f23_every_argument_and_package_version_counts(monkeypatch):
    found = {key(), key(rate=2e-4), key(seed=1), key(extra=None), key(input="other")}
    keys.package_version.cache_clear()
    monkeypatch.setattr(keys.metadata, "version", lambda name: "0.0.1")
    found.add(key())
    keys.package_version.cache_clear()
    assert len(found) == 6


def test_the_build_of_a_package_does_not_count(monkeypatch):
    versions = []
    for version in ("2.13.0", "2.13.0+cu130"):
        keys.package_version.cache_clear()
        monkeypatch.setattr(keys.metadata, "version", lambda name, version=version: version)
        versions.append(key())
    keys.package_version.cache_clear()
    assert versions[0] == versions[1]


def test_an_absent_package_is_absent():
    assert keys.package_version("no-such-distribution") == "absent"


REAL_STAGES = """
import importlib, json, sys
from pathlib import Path
import grimp
from tasks.store.code_digest import UNKEYED, code_digest, forget_code, reached_modules
from tests.store.stages import stage_modules

def digests():
    forget_code()
    return {module: code_digest(module) for module in stages}

def file_of(module):
    path = Path(module.replace(".", "/"))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

graph = grimp.build_graph("tasks", cache_dir=None)
stages, before, users = stage_modules(), {}, {}
before = digests()
assert len(stages) == len(set(before.values()))
for module in sorted(graph.modules):
    if any(module == each or module.startswith(each + ".") for each in UNKEYED):
        graph.remove_module(module)
for stage in stages:
    for module in {stage, *graph.find_upstream_modules(stage)}:
        users.setdefault(module, set()).add(stage)
missed, touched = [], {}
texts = {module: file_of(module).read_text() for module in sorted(set(graph.modules) | {"tasks.store.locks"})}
for module, text in texts.items():
    file_of(module).write_text("# A comment.\\n" + text + "\\n\\n# Another.\\n")
assert digests() == before
for module, text in texts.items():
    file_of(module).write_text(text)
reached = {stage: reached_modules(stage) for stage in stages}
for module, text in texts.items():
    touched[module] = [stage for stage in stages if module in reached[stage]]
    missed += [(stage, module) for stage in users.get(module, set()) - set(touched[module])]
    # One stage for each module: the others read their modules in the same way.
    for stage in sorted(users.get(module, set()), key=lambda each: len(reached[each]))[:1]:
        file_of(module).write_text(text + "\\n\\nANOTHER_VALUE = 1\\n")
        forget_code()
        if code_digest(stage) == before[stage]:
            missed.append((stage, module))
        file_of(module).write_text(text)
templates, moved = Path("tasks/reports/templates"), {}
for template in sorted(path for path in templates.iterdir() if path.is_file() and path.suffix != ".py"):
    text = template.read_text()
    template.write_text(text + "\\n")
    after = digests()
    moved[template.name] = [stage for stage in stages if after[stage] != before[stage]]
    template.write_text(text)
print(json.dumps({"missed": missed, "touched": touched, "moved": moved}))
"""
# Module: stages that do not compute with it.
OTHERS = {
    "tasks.core.pooling": {"similarity", "cluster", "emulate", "tune", "plug_in"},
    "tasks.core.clustering": {"capture", "emulate", "tune", "plug_in", "evaluate"},
    "tasks.core.plan.registry": {"capture", "similarity", "emulate", "tune", "plug_in", "evaluate"},
    "tasks.core.tuning.train": {"capture", "similarity", "cluster", "emulate", "plug_in", "evaluate"},
    "tasks.data.rows.reading": {"similarity", "cluster", "emulate", "plug_in", "study.weight_distances"},
    "tasks.data.hub": {"capture", "tune", "evaluate", "emulate", "plug_in", "report"},
    "tasks.models.resolving": {"capture", "evaluate", "emulate", "plug_in", "report"},
    "tasks.tune": {"capture", "similarity", "cluster", "emulate", "plug_in", "evaluate", "report"},
}
# Stages that write tables and pages.
REPORTS = {"tasks.report", "tasks.sweep_report", "tasks.search_report", "tasks.study.study_report"}


def test_f23_a_change_of_our_own_code_reaches_exactly_the_stages_that_compute_with_it(tmp_path):
    """The modules that a stage imports are found here by another package's walk over the imports."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests/store").mkdir(parents=True)
    shutil.copy(ROOT / "tests/store/stages.py", tmp_path / "tests/store/stages.py")
    done = subprocess.run([sys.executable, "-c", REAL_STAGES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missed"] == []
    touched = {module: set(stages) for module, stages in found["touched"].items()}
    for name, others in OTHERS.items():
        assert not {f"tasks.{other}" for other in others} & touched[name], name
    assert not touched["tasks.store.locks"]
    assert {"page.html.j2", "table.html.j2", "style.css", "hover.js"} <= set(found["moved"])
    for name, stages in found["moved"].items():
        assert set(stages) == REPORTS, f"{name} changes other keys than those of the stages that write pages"
