"""Commands of ours that the images, the compose file and the manifests start are understood by `crash`."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import parser
from tests.infra.dockerfiles import FILES, ROOT, stages
from tests.infra.manifests import containers
from tests.infra.test_compose import SERVICES


def started() -> list[list[str]]:
    """Every `crash ...` command line that something under images/ or infra/ starts."""
    lines: list[Any] = [service.get("command") for service in SERVICES.values()]
    lines += [container.get("args") for _, _, container in containers("in-cluster-postgres")]
    final = [instruction for path in FILES for instruction in stages(path)[-1]]
    lines += [command for instruction in final if instruction.name == "CMD" for command in instruction.commands]
    return [line for line in lines if line and line[0] == "crash"]


def test_the_service_is_started_by_known_commands() -> None:
    assert {line[1] for line in started()} == {"deploy", "reap", "worker"}


@pytest.mark.skipif(not (ROOT / "flows" / "service").is_dir(), reason="flows/service is not there yet")
@pytest.mark.parametrize("line", started(), ids=" ".join)
def test_the_command_line_is_understood(line: list[str]) -> None:
    words = [word.replace("${WORKER_LIMIT:-1}", "1") for word in line]
    assert parser().parse_args(words[1:]).run


def test_make_images_says_what_is_missing() -> None:
    found = subprocess.run(["make", "images", "ENGINE="], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2  # make's own; the recipe's is in the message
    assert "install and start docker or podman" in found.stderr
    assert "Error 4" in found.stderr


def test_make_images_builds_each_file_with_the_tag_in_use(tmp_path: Path) -> None:
    engine = tmp_path / "podman"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    engine.chmod(0o755)
    command = ["make", "images", f"ENGINE={engine}", "TORCH_CPU_INDEX=https://torch.example.org/cpu"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    calls = [call.split() for call in (tmp_path / "calls").read_text().splitlines()]
    built = {call[call.index("--tag") + 1]: call[call.index("--file") + 1] for call in calls}
    used = {service["image"]: service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service}
    assert built == used
    # Podman drops health checks from its own image format.
    assert all(call[:3] == ["build", "--format", "docker"] for call in calls)
    assert [call[-4:] for call in calls if any(word.startswith("TORCH_INDEX=") for word in call)] == [
        ["TORCH_INDEX=https://torch.example.org/cpu", "--tag", "crash-flow-worker-cpu:0.1.0", "."]
    ]
