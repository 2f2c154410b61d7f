"""Keys change exactly when a result may (F23)."""

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
from tasks.store.keys import canonical, canonical_json, code_digest, stage_key

ROOT = Path(__file__).resolve().parents[2]
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
    keys._code_digest.cache_clear()
    return code_digest(module, ("pack",))


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


def test_relative_imports_and_cycles(package):
    (package / "helpers.py").write_text("from . import deep, stage\n\ndef double(x):\n    return deep.same(x)\n")
    before = digest()
    (package / "deep.py").write_text("def same(x):\n    return -x\n")
    assert digest() != before


def test_imports_nothing(package):
    (package / "stage.py").write_text("raise RuntimeError('imported')\n")
    assert len(digest()) == 64


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
from tasks.store import keys
from tasks.store.keys import code_digest

def digests():
    keys._code_digest.cache_clear()
    names = "capture similarity cluster emulate tune plug_in evaluate report".split()
    stages = [getattr(importlib.import_module(f"tasks.{name}"), name) for name in names]
    return {stage.name: code_digest(f"tasks.{stage.name}", ("tasks.core", *stage.code)) for stage in stages}

before, changed = digests(), {}
texts = {path: path.read_text() for path in map(Path, sys.argv[1:])}
for path, text in texts.items():
    path.write_text("# A comment.\\n" + text + "\\n\\n# Another.\\n")
assert digests() == before
for path, text in texts.items():
    path.write_text(text + "\\n\\nANOTHER_VALUE = 1\\n")
    changed[str(path)] = sorted(stage for stage, digest in digests().items() if digest != before[stage])
    path.write_text(text)
print(json.dumps(changed))
"""
# File: stages that compute with it, and stages that do not.
USERS = {
    "tasks/core/pooling.py": ({"capture"}, {"similarity", "cluster", "emulate", "tune", "plug_in"}),
    "tasks/core/clustering.py": ({"cluster"}, {"capture", "emulate", "tune", "plug_in", "evaluate"}),
    "tasks/core/strategies.py": ({"cluster"}, {"capture", "similarity", "emulate", "tune", "plug_in", "evaluate"}),
    "tasks/core/sampling.py": ({"cluster"}, {"capture", "similarity", "emulate", "tune", "plug_in", "evaluate"}),
    "tasks/core/training.py": ({"tune"}, {"capture", "similarity", "cluster", "emulate", "plug_in", "evaluate"}),
    "tasks/store/rows.py": ({"capture", "tune", "evaluate"}, {"similarity", "cluster", "emulate"}),
    "tasks/tune.py": ({"tune"}, {"capture", "similarity", "cluster", "emulate", "plug_in", "evaluate", "report"}),
    "tasks/store/locks.py": (set(), {"capture", "similarity", "cluster", "emulate", "tune", "plug_in", "evaluate"}),
}


def test_f23_a_change_of_our_own_code_reaches_exactly_the_stages_that_compute_with_it(tmp_path):
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", REAL_STAGES, *USERS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed = json.loads(done.stdout)
    for name, (users, others) in USERS.items():
        assert users <= set(changed[name]), name
        assert not others & set(changed[name]), name
