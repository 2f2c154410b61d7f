"""`crash deploy`: create or update the work pool with its limit, and every deployment of prefect.yaml."""

import json
import subprocess
from typing import Any

from flows.service.servers import BIN, CODE
from tasks.core.errors import EnvironmentFault, InputError

POOL_TYPES = ("process", "docker", "kubernetes")


def deploy(pool: str, kind: str, concurrency: int | None) -> int:
    """Create or update the pool and its deployments on the server at PREFECT_API_URL; return the exit code."""
    from flows.running.environment import check_prefect

    if not (CODE / "prefect.yaml").exists():
        raise InputError(f"there is no prefect.yaml in {CODE}; run `crash deploy` from a checkout of the project")
    check_prefect()
    make_pool(pool, kind, pool_template(kind), concurrency)
    command = [str(BIN / "prefect"), "--no-prompt", "deploy", "--all", "--pool", pool]
    done = subprocess.run(command, cwd=CODE, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFault(f"prefect deploy ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    print(f"pool {pool} ({kind}) and its deployments are up to date")
    return 0


def pool_template(kind: str) -> dict[str, Any]:
    """Return the base job template of a type of pool."""
    return json.loads((CODE / "infra" / "pools" / f"{kind}.json").read_text())


def make_pool(name: str, kind: str, template: dict[str, Any], concurrency: int | None) -> None:
    """Create the pool, or update its template and limit.

    Raises:
        InputError: when it exists with another type.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    description = "Runs of CRaSh Flow. Each machine's worker says how many it takes at once."
    with get_client(sync_client=True) as client:
        try:
            made = WorkPoolCreate(
                name=name,
                type=kind,
                description=description,
                base_job_template=template,
                concurrency_limit=concurrency,
            )
            client.create_work_pool(made)
            return
        except ObjectAlreadyExists:
            found = client.read_work_pool(name)
        if found.type != kind:
            raise InputError(f"the pool {name} exists with type {found.type}, not {kind}; choose another --pool")
        change = WorkPoolUpdate(description=description, base_job_template=template)
        if concurrency is not None:
            change = change.model_copy(update={"concurrency_limit": concurrency})
        client.update_work_pool(name, change)
