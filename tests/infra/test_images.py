"""The image files without a container engine: what they copy and run exists, and nothing runs as root."""

import ast
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from flows.running.environment import prepare_environment
from tests.infra.dockerfiles import FILES, ROOT, Instruction, environment, packages, stages

SCRIPTS = Path(sys.executable).parent
# Commands of the essential packages that every Debian or Ubuntu image has.
ESSENTIAL = {"apt-get", "mkdir", "rm", "touch", "useradd"}
ALL = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def instructions(path: Path, name: str) -> list[Instruction]:
    return [instruction for stage in stages(path) for instruction in stage if instruction.name == name]


def test_the_three_images_are_there() -> None:
    assert [path.name for path in FILES] == ["mlflow.Dockerfile", "worker-cpu.Dockerfile", "worker.Dockerfile"]


@ALL
def test_hadolint_finds_nothing(path: Path) -> None:
    found = subprocess.run([SCRIPTS / "hadolint", path], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "bad.Dockerfile"
    bad.write_text(FILES[0].read_text().replace("--no-install-recommends ", ""))
    assert subprocess.run([SCRIPTS / "hadolint", bad], capture_output=True).returncode == 1


@ALL
def test_the_base_is_pinned_and_can_be_replaced(path: Path) -> None:
    base = re.search(r"^ARG BASE=(\S+)\n+FROM \$\{BASE\}", path.read_text(), re.MULTILINE)
    assert base
    assert re.search(r":\S*\d", base[1])
    assert {stage[0].words[0] for stage in stages(path)} == {"${BASE}"}


@ALL
def test_what_is_copied_exists_and_is_not_ignored(path: Path) -> None:
    kept = exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().splitlines())
    copies = [copy for copy in instructions(path, "COPY") if not copy.option("from")]
    assert copies
    for source in [word for copy in copies for word in copy.words[:-1]]:
        if source == "prefect.yaml" and not (ROOT / "flows" / "service").is_dir():
            continue  # comes with the commands of the service
        assert (ROOT / source).exists(), f"{path.name} copies {source}, which does not exist"
        assert source in kept, f"{path.name} copies {source}, which .dockerignore leaves out"


def test_the_build_context_is_small() -> None:
    kept = exclude_paths(str(ROOT), (ROOT / ".dockerignore").read_text().splitlines())
    files = [ROOT / name for name in kept if (ROOT / name).is_file()]
    assert not [name for name in kept if name.startswith((".venv", ".git", "tests")) or "__pycache__" in name]
    assert sum(file.stat().st_size for file in files) < 32 * 2**20


@ALL
def test_every_command_exists(path: Path) -> None:
    for stage in stages(path):
        for instruction in stage:
            if instruction.name not in {"RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"}:
                continue
            for command in instruction.commands:
                assert_exists(command, path, stage)


def assert_exists(command: list[str], path: Path, stage: list[Instruction]) -> None:
    """The program is in the environment, installed by this stage, or essential; a script of ours is copied."""
    program = command[0]
    if program == "tini":
        assert command[1] == "--"
        assert "tini" in packages(stage)
        command = command[2:] or ["python"]
        program = command[0]
    if program.startswith("--"):  # CMD with options for the ENTRYPOINT
        return
    name = program.removeprefix("/opt/venv/bin/")
    known = (SCRIPTS / name).exists() or name in packages(stage) or (name in ESSENTIAL and shutil.which(name))
    assert known, f"{path.name} runs {program}, which nothing installs"
    for word in command[1:]:
        if word.startswith("/opt/") and word.endswith(".py"):
            copies = [copy for copy in stage if copy.name == "COPY" and copy.words[-1] == str(Path(word).parent) + "/"]
            assert [source for copy in copies for source in copy.words if Path(source).name == Path(word).name]


@ALL
def test_pip_installs_what_the_constraints_pin(path: Path) -> None:
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [c for run in instructions(path, "RUN") for c in run.commands if c[1:4] == ["-m", "pip", "install"]]
    assert len(installs) == 1
    (command,) = installs
    assert "--no-cache-dir" in command
    assert Path(command[command.index("--constraint") + 1]).name == "constraints.txt"
    named = [word for word in command[command.index("--constraint") + 2 :] if not word.startswith("-")]
    assert named
    for name, extra in (re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?", word).groups() for word in named):
        if name == ".":
            assert set(extra.split(",")) <= extras.keys()
        else:
            assert name in pinned


@ALL
def test_it_runs_as_a_user_with_a_home_and_no_rights(path: Path) -> None:
    final = stages(path)[-1]
    (user,) = [instruction.rest for instruction in final if instruction.name == "USER"]
    assert user == "10001:10001"
    made = [c for i in final if i.name == "RUN" for c in i.commands if c[0] == "useradd"]
    assert made[0][made[0].index("--uid") + 1] == "10001"
    assert made[0][made[0].index("--home-dir") + 1] == environment(final)["HOME"]
    assert "pip" not in " ".join(instruction.rest for instruction in final if instruction.name == "RUN")


@pytest.mark.parametrize("name", ["worker", "worker-cpu"])
def test_a_worker_image_has_the_environment_of_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = environment(stages(ROOT / "images" / f"{name}.Dockerfile")[-1])
    monkeypatch.setattr(os, "environ", {})
    prepare_environment(Path(image["CRASH_HOME"]))
    # A server of its own is for laptops.
    wanted = {key: value for key, value in os.environ.items() if "EPHEMERAL" not in key}
    assert wanted
    assert {key: image.get(key) for key in wanted} == wanted


def test_the_prefect_server_finds_a_folder_for_its_pages() -> None:
    """By default it copies them beside its modules; where it may not write it logs an error and serves no pages."""
    image = environment(stages(ROOT / "images" / "worker-cpu.Dockerfile")[-1])
    assert Path(image["PREFECT_SERVER_UI_STATIC_DIRECTORY"]).is_relative_to("/tmp")


class Answering(http.server.BaseHTTPRequestHandler):
    """Says that it is well on one path and ill on all others."""

    well = ""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == self.well else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@ALL
def test_the_healthcheck_tells_well_from_ill(path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [instruction for instruction in stages(path)[-1] if instruction.name == "HEALTHCHECK"]
    ((python, option, code),) = check.commands
    assert (python, option) == ("python", "-c")
    ast.parse(code)
    listening = "5000" if path.stem == "mlflow" else "8080"
    assert f"127.0.0.1:{listening}/health" in code
    command = [sys.executable, option, code.replace(listening, str(port))]
    monkeypatch.setattr(Answering, "well", "/health")
    assert subprocess.run(command, capture_output=True).returncode == 0
    monkeypatch.setattr(Answering, "well", "/elsewhere")
    assert subprocess.run(command, capture_output=True).returncode == 1
