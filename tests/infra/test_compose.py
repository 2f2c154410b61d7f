"""The compose file: valid, complete, without a secret, and closed to everything but this machine."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.infra.dockerfiles import ROOT, environment, stages

FILE = ROOT / "infra" / "compose.yaml"
EXAMPLE = ROOT / "infra" / "compose.env.example"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EACH = pytest.mark.parametrize("name", SERVICES)
SENSITIVE = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|TOKEN|CONNECTION_URL|STORE_URI")


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree of mappings and lists, with where it stands."""
    if isinstance(value, dict):
        for key, nested in value.items():
            yield from texts(nested, f"{path}.{key}")
    elif isinstance(value, list):
        for nested in value:
            yield from texts(nested, path)
    elif isinstance(value, str):
        yield path, value


def variables() -> dict[str, str]:
    """Variables that the file asks for, with what stands behind the name: `:?message` or `:-default`."""
    found = re.findall(r"\$\{(\w+)([^}]*)\}", json.dumps(COMPOSE))
    return dict(found)


def test_it_fits_the_compose_specification() -> None:
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_schema_finds_a_misspelt_key(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("depends_on:", "depend_on:", 1))
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong]
    assert subprocess.run(command, capture_output=True).returncode == 1


@EACH
def test_images_are_pinned_and_ours_are_built_from_files_that_exist(name: str) -> None:
    image, tag = SERVICES[name]["image"].split(":")
    assert re.search(r"\d", tag)
    if image.startswith("crash-flow-"):
        build = SERVICES[name]["build"]
        assert tag == VERSION
        assert (FILE.parent / build["context"]).resolve() == ROOT
        assert build["dockerfile"] == f"images/{image.removeprefix('crash-flow-')}.Dockerfile"
        assert (ROOT / build["dockerfile"]).is_file()
    else:
        assert "build" not in SERVICES[name]


@EACH
def test_our_images_can_write_where_they_must(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        return
    assert service["read_only"] is True
    open_to_it = [entry.split(":")[0] for entry in service["tmpfs"]]
    open_to_it += [volume.split(":")[1] for volume in service.get("volumes", [])]
    final = environment(stages(ROOT / service["build"]["dockerfile"])[-1])
    for folder in {"/tmp", final["HOME"], final.get("PREFECT_SERVER_UI_STATIC_DIRECTORY", "/tmp")}:
        assert any(Path(folder).is_relative_to(entry) for entry in open_to_it), f"{name} cannot write to {folder}"


@EACH
def test_volumes_networks_and_dependencies_exist(name: str) -> None:
    service = SERVICES[name]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (FILE.parent / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    assert set(service.get("networks", ["default"])) <= COMPOSE["networks"].keys()
    for other, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
        else:
            assert SERVICES[other]["restart"] == "no", (
                f"{name} waits for the end of {other}, which is restarted for ever"
            )
        assert shared_network(service, SERVICES[other]) or how["condition"] == "service_completed_successfully"


def shared_network(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(set(one.get("networks", ["default"])) & set(other.get("networks", ["default"])))


def test_no_volume_or_network_is_left_over() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert COMPOSE["volumes"].keys() <= used
    joined = {network for service in SERVICES.values() for network in service.get("networks", ["default"])}
    assert COMPOSE["networks"].keys() == joined


@EACH
def test_addresses_name_services_that_can_be_reached(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    hosts = {host for value in environment.values() for host in re.findall(r"(?:://|@)([a-z]+):\d+", value)}
    for host in hosts - {"localhost"}:
        assert shared_network(SERVICES[name], SERVICES[host]), f"{name} asks {host}, on no network with it"


@EACH
def test_nothing_is_published_beyond_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)
    assert "network_mode" not in SERVICES[name]
    assert not SERVICES[name].get("privileged")


def test_both_user_interfaces_are_published_and_nothing_else() -> None:
    assert {name for name, service in SERVICES.items() if service.get("ports")} == {"prefect", "mlflow"}


def test_every_secret_comes_from_the_environment_and_must_be_set() -> None:
    for path, text in texts({"services": SERVICES}):
        if SENSITIVE.search(path.rsplit(".")[-1]) and not path.endswith("HF_TOKEN"):
            assert re.search(r"\$\{\w+:\?[^}]+\}", text), f"{path} may be empty or is written out"
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            outside = re.sub(r"\$\{[^}]*\}", "", value)
            assert not re.search(r"//[^@/]*:[^@/]+@", outside), f"{name}: {key} holds a password"


def test_the_example_lists_every_variable_and_no_secret() -> None:
    lines = EXAMPLE.read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    optional = {found[1]: found[2] for line in lines if (found := re.match(r"# (\w+)=(\S*)", line))}
    asked = variables()
    assert {name for name, how in asked.items() if how.startswith(":?")} == given.keys() - {"COMPOSE_PROFILES"}
    defaults = {name: how.removeprefix(":-") for name, how in asked.items() if how.startswith(":-")}
    assert defaults == optional
    assert {name for name, value in given.items() if value} == {"COMPOSE_PROFILES", "MLFLOW_USER"}
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "infra/compose.env"], cwd=ROOT)
    assert ignored.returncode == 0


def test_the_servers_ask_for_passwords_that_the_clients_send() -> None:
    server, client = SERVICES["prefect"]["environment"], SERVICES["worker"]["environment"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == client["PREFECT_API_AUTH_STRING"]
    tracking = SERVICES["mlflow"]["environment"]
    assert tracking["MLFLOW_AUTH_ADMIN_PASSWORD"] == client["MLFLOW_TRACKING_PASSWORD"]
    assert tracking["MLFLOW_AUTH_ADMIN_USERNAME"] == client["MLFLOW_TRACKING_USERNAME"]
    assert SERVICES["objects"]["environment"]["AWS_SECRET_ACCESS_KEY"] == client["AWS_SECRET_ACCESS_KEY"]


def test_only_the_gpu_worker_asks_for_gpus() -> None:
    asking = {name for name, service in SERVICES.items() if "deploy" in service}
    assert asking == {"worker"}
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "worker": ["gpu"],
        "worker-cpu": ["cpu"],
        "sweeper": ["gpu", "cpu"],
    }


def names_of_buckets(client: Any) -> set[str]:
    return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


def test_the_bucket_command_makes_the_bucket_and_may_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        client = boto3.client("s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret")
        # All such servers of one process have the same buckets, those of other tests too.
        before = names_of_buckets(client)
        for _ in range(2):
            command = [sys.executable, *SERVICES["bucket"]["command"][1:]]
            found = subprocess.run(command, env=os.environ | keys | {"AWS_ENDPOINT_URL": url}, capture_output=True)
            assert found.returncode == 0, found.stderr
        made = names_of_buckets(client) - before
    finally:
        server.stop()
    used = {found[1] for _, text in texts(SERVICES) if (found := re.search(r"s3://(\w+)/", text))}
    assert made == used
