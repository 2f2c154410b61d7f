"""The rendered manifests, by kind and name; the pods of flow runs among them, which the worker makes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.infra.dockerfiles import ROOT
from tests.infra.kustomizing import Resource, render

FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = {folder.name: folder for folder in sorted((FOLDER / "overlays").iterdir())}
RENDERED = {name: render(folder) for name, folder in OVERLAYS.items()}
SECRETS = {
    secret["metadata"]["name"]: secret for secret in yaml.safe_load_all((FOLDER / "secrets.example.yaml").read_text())
}
EACH = pytest.mark.parametrize("overlay", OVERLAYS)


def find(overlay: str, kind: str) -> dict[str, Resource]:
    return {found["metadata"]["name"]: found for found in RENDERED[overlay] if found["kind"] == kind}


def workloads(overlay: str) -> dict[str, Resource]:
    """Pod templates by the name of what makes the pods, and that of flow runs, which the worker makes."""
    named = [found for found in RENDERED[overlay] if found["kind"] in {"Deployment", "StatefulSet", "Job"}]
    templates = {found["metadata"]["name"]: found["spec"]["template"] for found in named}
    pool = json.loads((ROOT / "infra" / "pools" / "kubernetes.json").read_text())
    manifest = json.dumps(pool["job_configuration"]["job_manifest"]["spec"]["template"])
    for name, rule in pool["variables"]["properties"].items():
        manifest = manifest.replace(f'"{{{{ {name} }}}}"', json.dumps(rule.get("default")))
    return templates | {"flow-run": json.loads(manifest)}


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each container, with its workload's name and pod."""
    for name, template in workloads(overlay).items():
        for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]:
            yield name, template["spec"], container
