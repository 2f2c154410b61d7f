"""The cells of a sweep, which run side by side in this process or on the work pool."""

import contextvars
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.running.environment import TEMPORARY_SERVER
from flows.running.stopping import in_order, is_request
from flows.service.submit import AWAY, WORKER, Settled, Waiting, has_worker, portable
from flows.settings.grid import describe_values
from flows.settings.run import Settings
from tasks.core.errors import CrashError
from tasks.engine.runtime import everything_stopped
from tasks.store.artifacts import Ref
from tasks.store.gc import list_runs
from tasks.store.keys import canonical_json
from tasks.store.remote.store import open_store

logger = logging.getLogger(__name__)
DEPLOYMENT = "crash/run"
# One cell computes while another one waits for MLflow or for a core; stages share the cores anyway.
AT_ONCE_HERE = 2
# Workers take runs from a queue, which is kept long enough that none of them is idle.
AT_ONCE_ON_POOL = 16
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Cell:
    """One combination: its values on the axes, and its whole settings."""

    values: dict[str, Any]
    settings: Settings


@dataclass(frozen=True)
class Outcome:
    """A cell's report, or the error with which it ended."""

    cell: Cell
    report: Ref | None = None
    error: str | None = None


def run_here(cells: Sequence[Cell], at_once: int | None) -> Iterator[Outcome]:
    """Run each cell as a flow run in this process; yield outcomes as cells end. A failed cell does not stop others."""
    with _threads(at_once or AT_ONCE_HERE) as threads:
        waiting: dict[Future, Cell] = {
            threads.submit(contextvars.copy_context().run, _run_one, cell): cell for cell in cells
        }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield _outcome(waiting.pop(future), future)


def run_on_pool(cells: Sequence[Cell], sweep_id: str, at_once: int | None) -> Iterator[Outcome]:
    """Run each cell by the deployment crash/run, a limited number at once; yield outcomes as cells end.

    A sweep that is rescheduled after a crash finds its cells again: they are named by the sweep and their settings.
    """
    from prefect.client.orchestration import get_client

    waiting, running, idle = list(cells), dict[UUID, tuple[Cell, Settled]](), Waiting()
    with get_client(sync_client=True) as client:
        while waiting or running:
            while waiting and len(running) < (at_once or AT_ONCE_ON_POOL):
                cell = waiting.pop(0)
                running[_submit(cell, sweep_id)] = (cell, Settled())
            time.sleep(POLL_SECONDS)
            for run, state in _ended(client, running, idle):
                yield _pool_outcome(running.pop(run)[0], run, state)


def on_pool() -> bool:
    """Whether a configured Prefect server has the deployment for cells; a temporary one has no workers."""
    if not os.environ.get("PREFECT_API_URL") or TEMPORARY_SERVER in os.environ:
        return False
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        return False
    return True


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that stops running stages when the sweep is interrupted, instead of waiting for them."""
    threads = ThreadPoolExecutor(number)
    try:
        yield threads
    except BaseException as error:
        with in_order(is_request(error)):
            threads.shutdown(wait=False, cancel_futures=True)
            with everything_stopped(signal.SIGTERM):
                threads.shutdown(wait=True)
        raise
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _run_one(cell: Cell) -> Ref:
    from flows.crash import crash

    return crash(cell.settings)


def _outcome(cell: Cell, future: Future) -> Outcome:
    try:
        return Outcome(cell, report=future.result())
    except CrashError as error:
        return _failed(cell, str(error))
    except Exception as error:
        # Our mistake, or a package's: it does not concern the other cells.
        logger.exception("the cell %s failed", describe_values(cell.values))
        return _failed(cell, f"{type(error).__name__}: {error}")


def _failed(cell: Cell, error: str) -> Outcome:
    logger.error("the cell %s failed: %s", describe_values(cell.values), error)
    return Outcome(cell, error=error)


def _submit(cell: Cell, sweep_id: str) -> UUID:
    import hashlib

    from prefect.deployments import run_deployment

    settings = portable(cell.settings)
    name = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
    made: Any = run_deployment(
        DEPLOYMENT, parameters={"settings": settings}, timeout=0, idempotency_key=f"{sweep_id}-{name}"
    )
    return made.id


def _ended(client: Any, running: dict[UUID, tuple[Cell, Settled]], idle: Waiting) -> list[tuple[UUID, Any]]:
    import httpx
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    try:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(running))))
    except httpx.HTTPError:
        idle.for_what(AWAY)
        for _, settled in running.values():
            settled.forget()
        return []
    idle.for_what(None if any(has_worker(run.state) for run in runs) else WORKER)
    return [(run.id, run.state) for run in runs if running[run.id][1](run.state)]


def _pool_outcome(cell: Cell, run: UUID, state: Any) -> Outcome:
    if not state.is_completed():
        return _failed(cell, f"{state.name}: {state.message}")
    store = open_store(cell.settings.store_root, cell.settings.store_url)
    record = next((found for found in list_runs(store) if found.run_id == str(run)), None)
    found = store.find("report", record.report["key"]) if record and record.report else None
    if found is None:
        where = f"its run {run} completed, but its report is not in the store {cell.settings.store_url or store.root}"
        return _failed(cell, f"{where}; do the workers write to the same store (place.store, CRASH_STORE)?")
    return Outcome(cell, report=found.ref)
