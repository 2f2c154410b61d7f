"""A real job is rendered from each work pool template, by the classes that the workers use."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import jsonschema
import kubernetes_validate
import prefect_kubernetes.worker
import pytest
from docker.types import HostConfig
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.utilities.templating import find_placeholders
from prefect.workers.base import BaseJobConfiguration, BaseWorker
from prefect.workers.process import ProcessWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

from tests.places import ROOT

POOLS = ROOT / "infra" / "pools"
WORKERS: dict[str, type[BaseWorker]] = {
    worker.type: worker for worker in (ProcessWorker, DockerWorker, KubernetesWorker)
}
AUTH = "someone:a-secret"


def template(kind: str) -> dict[str, Any]:
    return json.loads((POOLS / f"{kind}.json").read_text())


def render(kind: str, **variables: object) -> Any:
    """The job that a worker of this kind would start for a flow run with these job variables."""
    configuration = WORKERS[kind].job_configuration
    job = asyncio.run(configuration.from_template_and_values(template(kind), variables, client=object()))
    flow = Flow(id=uuid4(), name="crash", labels={})
    job.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=flow.id, name="quick-otter"), flow=flow)
    return job


def pod(job: BaseJobConfiguration) -> dict[str, Any]:
    return job.job_manifest["spec"]["template"]["spec"]


def submitted(job: BaseJobConfiguration, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The manifest that a worker hands to the cluster, where it stands in for the cluster's answer."""
    manifests = []

    class Cluster:
        def __init__(self, client: object) -> None:
            pass

        async def create_namespaced_job(self, namespace: str, manifest: dict[str, Any]) -> None:
            assert namespace == "crash-flow"
            manifests.append(manifest)

    monkeypatch.setattr(prefect_kubernetes.worker, "BatchV1Api", Cluster)
    asyncio.run(KubernetesWorker(work_pool_name="gpu")._create_job(job, object()))
    return manifests[0]


@pytest.mark.parametrize("kind", WORKERS)
def test_a_template_offers_what_the_installed_package_offers(kind: str) -> None:
    default = WORKERS[kind].get_default_base_job_template()
    ours = template(kind)
    assert ours["job_configuration"].keys() == default["job_configuration"].keys()
    fixed_here = {"container_create_kwargs"} if kind == "docker" else set()
    assert default["variables"]["properties"].keys() - fixed_here <= ours["variables"]["properties"].keys()


@pytest.mark.parametrize("kind", WORKERS)
def test_each_placeholder_has_a_variable_and_each_variable_a_place(kind: str) -> None:
    configuration = template(kind)["job_configuration"]
    placed = {found.name for found in find_placeholders(configuration)}
    if isinstance(configuration["env"], dict):  # the worker adds the variable `env` to what is written there
        placed.add("env")
    assert {name for name in placed if not name.startswith("$")} == template(kind)["variables"]["properties"].keys()


@pytest.mark.parametrize("kind", WORKERS)
def test_the_defaults_fit_the_schema_of_the_variables(kind: str) -> None:
    schema = template(kind)["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: rule["default"] for name, rule in schema["properties"].items() if "default" in rule}
    jsonschema.validate(defaults, schema)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("process", {"gpus": "first"}),
        ("docker", {"shm_size": "much"}),
        ("docker", {"device_requests": [{"counts": 1}]}),
        ("kubernetes", {"gpu_count": -1}),
        ("kubernetes", {"data_claim": {"name": "crash-data"}}),
    ],
)
def test_the_schema_refuses_mistakes(kind: str, wrong: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, template(kind)["variables"])


def test_a_process_sees_the_gpus_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert render("process").env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    job = render("process", gpus="2", env={"HF_HUB_OFFLINE": "1"})
    assert job.env["CUDA_VISIBLE_DEVICES"] == "2"
    assert job.env["HF_HUB_OFFLINE"] == "1"
    assert job.env["OMP_WAIT_POLICY"] == "passive"
    assert job.command.endswith("-m prefect.engine")


def test_a_container_gets_gpus_shared_memory_and_the_workers_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_STORE", "s3://crash/store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "only-in-the-workers-environment")
    job = render("docker")
    assert job.image.startswith("crash-flow-worker:")
    assert job.volumes == ["crash-work:/var/lib/crash"]
    assert job.env["CRASH_STORE"] == "s3://crash/store"
    assert job.env["AWS_SECRET_ACCESS_KEY"] == "only-in-the-workers-environment"
    host = host_configuration(job)
    assert host["ShmSize"] == 8 * 2**30
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", -1, [["gpu"]])


def test_a_container_gets_one_gpu_or_none() -> None:
    one = {"driver": "nvidia", "device_ids": ["1"], "capabilities": [["gpu"]]}
    (request,) = host_configuration(render("docker", device_requests=[one], shm_size="512m"))["DeviceRequests"]
    assert (request["DeviceIDs"], request["Count"]) == (["1"], 0)
    without = host_configuration(render("docker", device_requests=[], image="crash-flow-worker-cpu:0.1.0"))
    assert without["DeviceRequests"] == []


def host_configuration(job: BaseJobConfiguration) -> HostConfig:
    """What the Docker client library makes of the settings that the worker passes on."""
    job.env["PREFECT_API_URL"] = "http://prefect.example.org:4200/api"  # else the worker asks a Docker engine
    passed = DockerWorker(work_pool_name="gpu")._build_container_settings(None, job)
    assert passed["healthcheck"] == {"test": ["NONE"]}
    names = ("device_requests", "shm_size", "cap_drop", "security_opt")
    return HostConfig(version="1.44", **{name: passed[name] for name in names})


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "gpu_count": 4,
            "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "tolerations": [{"key": "team", "operator": "Equal", "value": "research", "effect": "NoExecute"}],
            "shm_size": "32Gi",
            "data_claim": {"claimName": "models"},
            "secret_name": "other-secret",
            "settings_name": "other-settings",
            "memory_limit": "64Gi",
            "cpu_request": "4",
            "env": {"HF_HUB_OFFLINE": "1"},
            "image": "registry.example.org/crash-flow-worker:0.1.0",
        },
        {"gpu_count": 0, "data_claim": None},
    ],
    ids=["defaults", "all set", "cpu and object store"],
)
def test_a_kubernetes_job_is_valid_and_has_what_was_asked(variables: dict[str, Any]) -> None:
    job = render("kubernetes", **variables)
    manifest = json.loads(json.dumps(job.job_manifest))
    manifest["metadata"]["name"] = manifest["metadata"].pop("generateName") + "abcde"
    drop_nulls(manifest)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    container = pod(job)["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == variables.get("gpu_count", 1)
    assert pod(job)["nodeSelector"] == variables.get("node_selector", {})
    assert [rule["key"] for rule in pod(job)["tolerations"]] == (
        ["team"] if "tolerations" in variables else ["nvidia.com/gpu"]
    )
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["shared-memory"] == "/dev/shm"
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": variables.get("shm_size", "8Gi")}
    assert volumes["data"]["persistentVolumeClaim"] == variables.get("data_claim", {"claimName": "crash-data"})
    assert {"secretRef": {"name": variables.get("secret_name", "crash-clients")}} in container["envFrom"]
    assert {"configMapRef": {"name": variables.get("settings_name", "crash-settings")}} in container["envFrom"]


def drop_nulls(value: Any) -> None:
    """The cluster reads a null as an absent field, the strict schema does not."""
    for nested in list(value.values()) if isinstance(value, dict) else value:
        if isinstance(nested, dict | list):
            drop_nulls(nested)
    if isinstance(value, dict):
        for name in [name for name, nested in value.items() if nested is None]:
            del value[name]


def test_a_kubernetes_job_has_time_for_a_checkpoint_and_no_rights() -> None:
    job = render("kubernetes")
    assert pod(job)["terminationGracePeriodSeconds"] >= 60
    assert "completions" not in pod(job)
    assert job.job_manifest["spec"]["completions"] == job.job_manifest["spec"]["parallelism"] == 1
    assert job.job_manifest["spec"]["backoffLimit"] == 0
    assert job.job_manifest["spec"]["template"]["metadata"]["labels"]["crash-flow/role"] == "flow-run"
    assert pod(job)["automountServiceAccountToken"] is False
    assert pod(job)["securityContext"]["runAsNonRoot"] is True


def test_no_secret_passes_through_a_kubernetes_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own password would be copied into the manifest; the worker's Deployment sets what prevents it."""
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME", "crash-clients")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY", "PREFECT_API_AUTH_STRING")
    from prefect.settings.context import temporary_settings

    with temporary_settings():
        job = render("kubernetes")
        assert AUTH in json.dumps(job.job_manifest), "the password does not come this way any more: drop this test"
        manifest = submitted(job, monkeypatch)
    assert AUTH not in json.dumps(manifest)
    (entry,) = [e for e in pod(job)["containers"][0]["env"] if e["name"] == "PREFECT_API_AUTH_STRING"]
    assert entry["valueFrom"]["secretKeyRef"] == {"name": "crash-clients", "key": "PREFECT_API_AUTH_STRING"}
