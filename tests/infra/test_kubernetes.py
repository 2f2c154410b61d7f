"""The Kubernetes manifests, rendered: valid, complete, closed by default, and without a secret or a root user."""

import json
import re
import shutil
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml
from prefect_kubernetes.settings import KubernetesSettings

from tests.infra.dockerfiles import ROOT
from tests.infra.kustomizing import Resource
from tests.infra.manifests import EACH, OVERLAYS, RENDERED, SECRETS, containers, find, workloads

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@EACH
def test_every_object_is_valid(overlay: str) -> None:
    assert RENDERED[overlay]
    for resource in [*RENDERED[overlay], *SECRETS.values()]:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_the_schema_finds_a_misspelt_field() -> None:
    wrong = json.loads(json.dumps(find("external-postgres", "Deployment")["worker"]))
    wrong["spec"]["template"]["spec"]["serviceAcountName"] = "worker"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@EACH
def test_kubectl_renders_the_same(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the manifests were rendered by tests/infra/kustomizing.py")
    found = subprocess.run([kubectl, "kustomize", OVERLAYS[overlay]], capture_output=True, text=True)
    if "must be a file" in found.stderr:
        pytest.skip("kubectl is older than 1.21 and cannot read folders as resources")
    assert (found.returncode, found.stderr) == (0, "")

    def ordered(resources: list[Resource]) -> list[str]:
        return sorted(json.dumps(resource, sort_keys=True) for resource in resources)

    assert ordered(list(yaml.safe_load_all(found.stdout))) == ordered(RENDERED[overlay])


@EACH
def test_what_is_referred_to_exists(overlay: str) -> None:
    settings, claims = find(overlay, "ConfigMap"), find(overlay, "PersistentVolumeClaim")
    accounts = find(overlay, "ServiceAccount")
    for name, pod, container in containers(overlay):
        assert pod.get("serviceAccountName", "default") in {"default", *accounts}
        for source in container.get("envFrom", []):
            where = settings if "configMapRef" in source else SECRETS
            assert next(iter(source.values()))["name"] in where, f"{name}: {source}"
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        own = {
            claim["metadata"]["name"]
            for found in find(overlay, "StatefulSet").values()
            for claim in found["spec"]["volumeClaimTemplates"]
        }
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | own
        for volume in volumes.values():
            assert volume.get("configMap", {"name": next(iter(settings))})["name"] in settings
            assert volume.get("persistentVolumeClaim", {"claimName": next(iter(claims))})["claimName"] in claims
    for binding in find(overlay, "RoleBinding").values():
        assert binding["roleRef"]["name"] in find(overlay, binding["roleRef"]["kind"])
        for subject in binding["subjects"]:
            assert subject["name"] in accounts
            assert subject["namespace"] == "crash-flow"


@EACH
def test_services_lead_to_a_port_of_their_pods(overlay: str) -> None:
    for service in find(overlay, "Service").values():
        (name, template), *others = [
            (name, template)
            for name, template in workloads(overlay).items()
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ]
        assert not others
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            assert target in {*ports, *ports.values()}, f"{name} has no port {target}"


@EACH
def test_addresses_name_services(overlay: str) -> None:
    services = find(overlay, "Service")
    settings = find(overlay, "ConfigMap")["crash-settings"]["data"]
    named = {found for value in settings.values() for found in re.findall(r"http://([a-z]+):(\d+)", value)}
    assert named == {("prefect", "4200"), ("mlflow", "5000")}
    for host, port in named:
        assert int(port) in [entry["port"] for entry in services[host]["spec"]["ports"]]


@EACH
def test_images_are_pinned_and_ours_have_a_file(overlay: str) -> None:
    for name, _, container in containers(overlay):
        image, tag = container["image"].split(":")
        assert re.search(r"\d", tag), name
        if image.startswith("crash-flow-"):
            assert tag == VERSION
            assert (ROOT / "images" / f"{image.removeprefix('crash-flow-')}.Dockerfile").is_file()


@EACH
def test_no_container_is_root_or_may_become_it(overlay: str) -> None:
    for name, pod, container in containers(overlay):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    assert find(overlay, "Namespace")["crash-flow"]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }


@EACH
def test_only_the_worker_talks_to_the_cluster(overlay: str) -> None:
    for name, template in workloads(overlay).items():
        assert template["spec"]["automountServiceAccountToken"] is (name == "worker"), name
        # Kubernetes would otherwise set PREFECT_PORT, MLFLOW_PORT and the like, which both servers read as settings.
        assert template["spec"]["enableServiceLinks"] is False, name
    rules = find(overlay, "Role")["worker"]["rules"]
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] or "secrets" in rule["resources"]]
    assert not find(overlay, "ClusterRole")


@EACH
def test_pods_have_resources_and_servers_have_probes(overlay: str) -> None:
    for name, _, container in containers(overlay):
        assert container["resources"].keys() == {"requests", "limits"}, name
        if container.get("ports"):
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@EACH
def test_secrets_are_only_referred_to(overlay: str) -> None:
    assert not find(overlay, "Secret")
    for found in SECRETS.values():
        assert found["metadata"]["namespace"] == "crash-flow"
        assert set(found["stringData"].values()) == {""}
    secret = {name for found in SECRETS.values() for name in found["stringData"]}
    for name, _, container in containers(overlay):
        for entry in container["env"] if isinstance(container.get("env"), list) else []:
            assert entry["name"] not in secret, f"{name} has {entry['name']} written out"
    for settings in find(overlay, "ConfigMap").values():
        assert not secret & settings["data"].keys()


def test_the_workers_settings_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = workloads("external-postgres")["worker"]["spec"]["containers"]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"crash-flow"}
    secret = settings.worker.api_auth_string_secret_name
    assert settings.worker.api_auth_string_secret_key in SECRETS[secret]["stringData"]


def test_the_overlays_differ_in_the_database_alone() -> None:
    names = {
        overlay: {(found["kind"], found["metadata"]["name"]) for found in RENDERED[overlay]} for overlay in OVERLAYS
    }
    difference = names["in-cluster-postgres"] - names["external-postgres"]
    assert difference == {
        ("Service", "postgres"),
        ("StatefulSet", "postgres"),
        ("ConfigMap", "databases"),
        ("NetworkPolicy", "postgres"),
    }
    assert names["external-postgres"] < names["in-cluster-postgres"]
