"""The wheel holds all that the command needs, and no test."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.places import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, as `python -m build` does it, with the tools that are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        if name.split("/")[0] in ("flows", "tasks", "pyproject.toml", "README.md", "LICENSE", "tests"):
            target = folder / "sources" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(folder / "sources")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_packages_and_their_data_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"flows", "tasks", f"{wheel.name.split('-py3')[0]}.dist-info"}
    tracked = subprocess.run(["git", "ls-files", "-z", "flows", "tasks"], cwd=ROOT, capture_output=True, text=True)
    assert {name for name in tracked.stdout.split("\0") if name} <= names


def test_the_command_of_the_wheel_runs_away_from_the_sources(wheel, tmp_path):
    """Installed alone into a folder; the packages that it needs are those of this environment."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "CRASH_HOME": str(tmp_path / "home")}
    for arguments in (["--help"], ["doctor", "--help"]):
        command = [sys.executable, "-c", "from flows.cli.main import main; main()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    code = "import flows.cli.parser as parser; print(parser.__file__, parser.DEMO.is_file(), parser.READY.is_dir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    path, *there = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path), done.stderr
    assert there == ["True", "True"]


@pytest.mark.nightly
def test_an_empty_environment_runs_the_demo(wheel, tmp_path):
    """As a stranger would: the wheel and the pinned set, nothing else."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    install = [str(binaries / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, timeout=900)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["CRASH_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [str(binaries / "crash"), "demo"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "| crash emulator " in done.stdout
