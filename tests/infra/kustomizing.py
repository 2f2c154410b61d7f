"""Rendering of our kustomizations without kubectl: exactly the fields that they use, and an error for any other.

`tests/infra/test_kubernetes.py` compares the outcome with `kubectl kustomize` where that is installed.
"""

from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
CLUSTER_WIDE = {"Namespace"}
KNOWN = {"apiVersion", "kind", "resources", "namespace", "configMapGenerator", "generatorOptions"}


def render(folder: Path) -> list[Resource]:
    """The resources of a folder with a kustomization.yaml."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = kustomization.keys() - KNOWN
    if unknown:
        raise NotImplementedError(f"{folder}: {', '.join(sorted(unknown))}; teach tests/infra/kustomizing.py")
    resources = [resource for entry in kustomization["resources"] for resource in read(folder / entry)]
    if "configMapGenerator" in kustomization:
        assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
        resources += [config_map(folder, rule) for rule in kustomization["configMapGenerator"]]
    if "namespace" in kustomization:
        for resource in resources:
            if resource["kind"] not in CLUSTER_WIDE:
                resource["metadata"]["namespace"] = kustomization["namespace"]
    return resources


def read(path: Path) -> list[Resource]:
    if path.is_dir():
        return render(path)
    return [resource for resource in yaml.safe_load_all(path.read_text()) if resource]


def config_map(folder: Path, rule: dict[str, Any]) -> Resource:
    assert rule.keys() == {"name", "files"}
    data = {Path(name).name: (folder / name).read_text() for name in rule["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": rule["name"]}, "data": data}
