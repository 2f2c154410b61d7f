"""The deployments say the same as the code, the command line and the demo's settings."""

import importlib
import subprocess
import tomllib

import pytest
import yaml

from flows import incoming
from flows.cli.main import parser
from flows.settings.run import Settings
from tests.places import ROOT

CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {(each["entrypoint"].partition(":")[2], each["name"]): each for each in CONTENT["deployments"]}


def test_the_demo_is_the_command_lines_demo():
    given = DEPLOYMENTS["crash", "demo"]["parameters"]["settings"]
    written = tomllib.loads((ROOT / "flows/demo/settings.toml").read_text())
    written["model"]["name"] = "flows/demo/model"
    written["task"]["data"] = "flows/demo/task"
    assert Settings.model_validate(given) == Settings.model_validate(written)


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=lambda each: each["name"])
def test_each_is_complete_and_its_entrypoint_is_a_flow(deployment):
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert flow.name == name.replace("_", "-")
    assert {"description", "tags", "version", "work_pool"} <= deployment.keys()
    assert deployment["work_pool"]["name"] == "gpu"
    assert deployment["work_pool"]["job_variables"]["env"] == {}


def test_deployments_and_commands_are_the_same_words():
    commands = set(next(action.choices for action in parser()._actions if action.choices))
    assert {"demo", "run", "sweep", "up", "down", "deploy", "worker", "reap"} <= commands
    for flow, name in DEPLOYMENTS.keys() - {("crash", "weekly"), ("incoming", "watch")}:
        assert (name if flow == "crash" else flow.replace("_", "-")) in commands


def test_the_weekly_schedule_is_inactive_and_on_the_clock():
    (schedule,) = DEPLOYMENTS["crash", "weekly"]["schedules"]
    assert schedule == {"cron": "0 3 * * 1", "timezone": "UTC", "active": False}


def test_the_watch_is_inactive_and_starts_a_deployment_that_there_is():
    (schedule,) = DEPLOYMENTS["incoming", "watch"]["schedules"]
    assert schedule == {"interval": 60, "active": False}
    flow, _, name = incoming.DEPLOYMENT.partition("/")
    assert (flow.replace("-", "_"), name) in DEPLOYMENTS


def test_the_version_is_the_packages_with_or_without_a_checkout(tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    script = ["sh", str(ROOT / "infra/version.sh")]
    bare = subprocess.run(
        script, cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert bare.stdout.strip() == version
