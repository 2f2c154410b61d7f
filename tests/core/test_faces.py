"""The faces of packages: what others import from them is there, and nothing inside the project goes through them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tasks

ROOT = Path(tasks.__path__[0]).parent
FACES = ("tasks.core.plan", "tasks.core.blocks")
NAMES = {
    "tasks.core.plan": ("Plan", "STRATEGIES", "crash_plan", "fixed_plan", "full_plan", "make_plan", "random_plan"),
    "tasks.core.blocks": ("get_blocks", "layout", "plug_in", "with_layout", "tuned_state", "capture_blocks"),
}


@pytest.mark.parametrize(("face", "name"), [(face, name) for face, names in NAMES.items() for name in names])
def test_a_public_name_is_that_of_its_module(face, name):
    found = getattr(__import__(face, fromlist=[name]), name)
    assert getattr(found, "__module__", face).startswith(face)


@pytest.mark.parametrize("face", FACES)
def test_an_unknown_name_is_an_attribute_error(face):
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {face} import no_such_name")


def test_no_module_of_the_project_goes_through_a_face():
    for path in [*ROOT.glob("tasks/**/*.py"), *ROOT.glob("flows/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module in FACES), path


def test_the_formula_of_cka_needs_no_orchestration():
    code = "import sys, tasks.core.cka; print(sorted({'prefect', 'mlflow', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
