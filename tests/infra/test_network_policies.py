"""Who may talk to whom in the cluster, read from the rendered network policies."""

from typing import Any

from tests.infra.manifests import EACH, find, workloads


@EACH
def test_everything_is_closed_but_what_is_needed(overlay: str) -> None:
    policies = find(overlay, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    in_cluster = overlay == "in-cluster-postgres"
    for client in ("deploy", "reaper", "worker", "flow-run"):
        assert reaches(overlay, client, "prefect", 4200)
        assert not reaches(overlay, client, "postgres", 5432)
    assert reaches(overlay, "flow-run", "mlflow", 5000)
    assert not reaches(overlay, "flow-run", "worker", 8080)
    assert not reaches(overlay, "mlflow", "prefect", 4200)
    for server in ("prefect", "mlflow"):
        assert reaches(overlay, server, "postgres", 5432) is in_cluster
        assert leaves(overlay, server, 5432)
    assert leaves(overlay, "worker", 6443)
    assert leaves(overlay, "flow-run", 443)
    assert not leaves(overlay, "prefect", 443)


def selects(selector: dict[str, Any], role: str) -> bool:
    """Whether a label selector takes the pods of a role; the policies know no other label."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {"crash-flow/role": role})
    assert wanted.keys() == {"crash-flow/role"}
    rules = selector.get("matchExpressions", [])
    assert all((rule["key"], rule["operator"]) == ("crash-flow/role", "In") for rule in rules)
    return wanted["crash-flow/role"] == role and all(role in rule["values"] for rule in rules)


def allows(overlay: str, direction: str, role: str, peer: str | None, port: int) -> bool:
    """Whether a policy lets `role` receive from (Ingress) or send to (Egress) `peer`; None is anywhere."""
    side = {"Ingress": "from", "Egress": "to"}[direction]
    for policy in find(overlay, "NetworkPolicy").values():
        if direction not in policy["spec"]["policyTypes"] or not selects(policy["spec"]["podSelector"], role):
            continue
        for rule in policy["spec"].get(direction.lower(), []):
            peers = rule.get(side)
            known = peers is None or (peer and any(selects(found["podSelector"], peer) for found in peers))
            if known and port in [entry["port"] for entry in rule["ports"]]:
                return True
    return False


def reaches(overlay: str, source: str, target: str, port: int) -> bool:
    if target not in workloads(overlay):
        return False
    return allows(overlay, "Egress", source, target, port) and allows(overlay, "Ingress", target, source, port)


def leaves(overlay: str, source: str, port: int) -> bool:
    """Whether it may send to an address that the manifests do not know, or to the database in the cluster."""
    in_cluster = port == 5432 and "postgres" in workloads(overlay)
    return allows(overlay, "Egress", source, "postgres" if in_cluster else None, port)
