"""With CRASH_TESTS_STRICT=1 a skip passes for a listed reason only, in one process and in several."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

LISTED = """
import pytest

@pytest.mark.skipif(True, reason="needs a CUDA device")
def test_marked():
    pass

def test_inside():
    pytest.skip("mount namespaces are not allowed here: no right")

@pytest.mark.xfail(reason="known")
def test_known():
    raise ValueError

def test_plain():
    pass
"""
BY_MARK = """
import pytest

@pytest.mark.skipif(True, reason="no data")
def test_marked():
    pass
"""
INSIDE = """
import pytest

@pytest.fixture
def data():
    pytest.skip("no data")

def test_inside(data):
    pass
"""
# The second function would pass, were the module collected.
WHOLE = """
import pytest

pytest.skip("no data", allow_module_level=True)

def test_plain():
    pass
"""
UNLISTED = {"by_mark": BY_MARK, "inside": INSIDE, "whole": WHOLE}
EACH_WAY = pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "workers"])


def run(folder: Path, contents: dict[str, str], strict: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on files of these contents."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, content in contents.items():
        (folder / f"test_{name}.py").write_text(content)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.suite.unexpected_skips"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), "-c", str(folder / "pytest.ini"), *options, str(folder)],
        cwd=ROOT,
        env={**os.environ, "CRASH_TESTS_STRICT": strict},
        capture_output=True,
        text=True,
    )


@EACH_WAY
def test_listed_reasons_pass(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run(tmp_path, {"listed": LISTED}, "1", *workers)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in done.stdout


@EACH_WAY
def test_other_reasons_fail(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run(tmp_path, UNLISTED, "1", *workers, "--continue-on-collection-errors")
    assert done.returncode == 1, done.stdout
    for name in UNLISTED:
        assert re.search(rf"^ERROR .*test_{name}\.py", done.stdout, re.MULTILINE)
    # Where the variable CI is set, pytest repeats each whole message in its summary.
    assert done.stdout.partition("short test summary info")[0].count("unexpected skip: no data\n") == len(UNLISTED)
    assert re.search(rf"^{len(UNLISTED)} errors in", done.stdout, re.MULTILINE)


def test_other_reasons_pass_where_nobody_asked(tmp_path: Path) -> None:
    done = run(tmp_path, UNLISTED, "")
    assert done.returncode == 0, done.stdout
    assert f"{len(UNLISTED)} skipped" in done.stdout


def test_the_tests_of_this_project_are_checked(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin("tests.suite.unexpected_skips")
