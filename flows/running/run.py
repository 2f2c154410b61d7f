"""One run from start to end: resolve and check the inputs, open tracking and records, and close everything again."""

import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.running.base_run import BaseRun
from flows.running.environment import local_database, prefect_page
from flows.running.expected_memory import ExpectedMemory
from flows.running.inputs import Inputs, take_inputs
from flows.running.logs import log_encoding, quiet_prefect
from flows.running.pass_limits import Limits, run_limits
from flows.running.progress import Progress
from flows.running.shown_parameters import digests_of, shown_parameters
from flows.running.stopping import deliver_lost_requests, in_order, is_request, put_off_prefect, seconds_since_request
from flows.settings.run import Kind, Settings
from tasks.engine.resources import Resources, machine_folder, usable_cores, visible_gpus
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.engine.stage import Stage
from tasks.models.source import ModelSource
from tasks.reports.input_notes import input_notes
from tasks.store.artifacts import Ref
from tasks.tracking.servers import redact_url
from tasks.tracking.tracking import Tracking

logger = logging.getLogger(__name__)
# Stages whose artifact is the final result of a run, sweep, search or study.
RESULTS = ("report", "collect", "frontier", "findings", "party_report", "audit_report")
# For checkpoints and tracking together, after a request to stop.
CLOSING_SECONDS = 24.0


class Run(BaseRun[Kind]):
    """Submits stages: `run(stage, label, **arguments)` submits the Prefect task and remembers its future.

    Kind: the settings of its flow.
    """

    def __init__(
        self, settings: Kind, inputs: Inputs, runtime: Runtime, context: RunContext, futures: list[Any] | None = None
    ) -> None:
        facts, distilling = inputs.checked.summary, (inputs.teacher, inputs.text)
        super().__init__(settings, inputs.precision, inputs.model, inputs.num_parameters, inputs.task, *distilling)
        self.runtime = runtime
        self.context = context
        self.held_out = inputs.held_out
        self.facts |= facts
        for note in input_notes(facts):
            logger.warning("task %s: %s", inputs.task.name, note)
        # With several models and tasks in one flow run, all stages are waited for together.
        self._futures: list[Any] = [] if futures is None else futures
        # Those of the runs that this one is a part of; they may submit stages later than it is made.
        self._before: list[list[Any]] = []
        self.report: Ref | None = None

    def __call__(self, stage: Stage, label: str = "", **arguments: Any) -> Any:
        future = stage.submit(self.runtime, self.labelled(label), **arguments)
        self._futures.append(future)
        return future

    def changed(self, settings: Kind) -> "Run[Kind]":
        part = super().changed(settings)
        part._futures, part._before = [], [*self._before, self._futures]
        return part

    def wait(self) -> None:
        for future in self._futures:
            self.result(future)

    def as_model(self, made: Any, subfolder: str = "") -> ModelSource:
        from tasks.models.resolving import resolve_model

        store = self.runtime.open_store()
        return resolve_model(str(store.open(self.result(made)) / subfolder), store=store)

    def finish(self, last: Any) -> Ref:
        """Wait for all stages and return the result of `last`; raise the error of the first stage that fails."""
        from prefect.futures import as_completed

        progress, total = Progress(), len(self._futures)
        for done, future in enumerate(as_completed(self._futures), start=1):
            self.result(future)
            progress.show(done, total)
        self.report = self.result(last)
        return self.report

    def result(self, future: Any) -> Any:
        """Return the result of a stage; where it never started, raise the error of the stage that it needs."""
        from prefect.exceptions import UnfinishedRun

        try:
            return future.result()
        except UnfinishedRun:
            # The stages of this run first: others may have failed in parts of the run that this one does not need.
            for other in [each for futures in (self._futures, *self._before) for each in futures]:
                # The stage that failed has ended; others may still run.
                with suppress(UnfinishedRun, TimeoutError):
                    other.result(timeout=0)
            raise


@contextmanager
def started(
    settings: Kind,
    flow_name: str,
    show: Callable[[Run[Kind], Tracking], None],
    name: str | None = None,
    limits: Callable[[Kind], Limits] = run_limits,
) -> Iterator[Run[Kind]]:
    """Resolve and check the inputs, then keep records and tracking open within the context.

    show: passes the result on to MLflow and Prefect; name: of the run; limits: the limits of its passes.
    """
    from flows.running.guard import guard_temporary_servers

    guard_temporary_servers()
    put_off_prefect()
    quiet_prefect()
    inputs = take_inputs(settings, limits=limits)
    log_encoding([inputs.checked.summary])
    runtime = make_runtime(settings)
    context = make_run_context(settings, runtime)
    context.used.append(inputs.checked)
    context.expected = ExpectedMemory(flow_name, [("", settings, inputs)])
    run = Run(settings, inputs, runtime, context)
    parameters = shown_parameters(settings, run.facts)
    with recorded(settings, flow_name, name or run_name(settings), runtime, context, parameters, digests_of(inputs)):
        yield run
        assert run.report is not None
        show(run, context.tracking)


def make_runtime(settings: Settings) -> Runtime:
    """Return what stages of the current flow run need and what never changes a result."""
    from prefect.runtime import flow_run

    return Runtime(
        store=str(settings.store_root),
        store_url=settings.store_url,
        run_id=str(flow_run.id or uuid.uuid4()),
        cores_per_stage=settings.place.cores_per_stage,
        gpus_per_stage=settings.place.gpus_per_stage,
        parallel=settings.place.parallel,
        stream_blocks=settings.place.stream_blocks,
        show_progress=True,
    )


def make_run_context(settings: Settings, runtime: Runtime) -> RunContext:
    """Return what the stages of this run share: cores, GPUs and tracking."""
    from tasks.store.gc import UsedRefs

    machine = Resources(usable_cores(), visible_gpus(), machine_folder(), settings.place.num_bytes)
    used = UsedRefs(runtime.open_store(), runtime.run_id)
    return RunContext(machine, open_tracking(settings, runtime.run_id), used)


@contextmanager
def recorded(
    settings: Settings,
    flow_name: str,
    name: str,
    runtime: Runtime,
    context: RunContext,
    parameters: dict[str, str],
    digests: dict[str, str],
) -> Iterator[None]:
    """Record the run's start, end and final state in the store and in MLflow; leave no process behind in any case."""
    from tasks.store.gc import record_run

    store, tracking = runtime.open_store(), context.tracking
    # On a worker, no command has asked for it.
    deliver_lost_requests()
    record_run(store, runtime.run_id, flow_name, name, _recorded(settings))
    state = "failed"
    try:
        with sharing(runtime, context, once=True):
            tracking.start(name, parameters, _tags(settings, runtime.run_id), digests)
            yield
            state = "completed"
    except BaseException as error:
        state = "interrupted" if is_request(error) else "failed"
        raise
    finally:
        with in_order(state == "interrupted") as is_stopping:
            _close(store, runtime, context, state, is_stopping)


def _close(store: Any, runtime: Runtime, context: RunContext, state: str, is_stopping: Callable[[], bool]) -> None:
    """Stop running stages, which write checkpoints, then record in MLflow and the store how the run ended."""
    from tasks.store.gc import finish_run

    tracking = context.tracking
    context.children.stop(signal.SIGTERM)
    status = {"completed": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
    # A batch system kills thirty seconds after its request to stop.
    short = max(1.0, min(10.0, CLOSING_SECONDS - seconds_since_request()))
    tracking.close(status, 60.0 if state == "completed" else short, is_stopping)
    report = (
        next((ref for ref in reversed(context.used) if ref.stage in RESULTS), None) if state == "completed" else None
    )
    computed = len(context.computed)
    finish_run(store, runtime.run_id, state, list(context.used), tracking.mlflow_run_id, computed, report)


def _recorded(settings: Settings) -> dict[str, Any]:
    """Return the settings for the store's record, with the password removed from the address."""
    values = settings.model_dump(mode="json")
    values["place"]["mlflow"] = settings.place.mlflow and redact_url(settings.place.mlflow)
    return values


def open_tracking(settings: Settings, run_id: str) -> Tracking:
    """Open tracking at the configured server, or in an SQLite file under home."""
    folder = Path(settings.place.home).absolute() / "mlflow"
    uri = settings.tracking_uri or local_database(Path(settings.place.home))
    return Tracking(uri, settings.place.experiment, folder / "journal", run_id, settings.tracked_later)


def run_name(settings: Settings) -> str:
    """Return the run's name in both UIs."""
    name = f"{Path(settings.model.name).name} · {settings.task.name} · {' + '.join(settings.strategy)}"
    return f"{name} · {settings.place.label}" if settings.place.label else name


def _tags(settings: Settings, run_id: str) -> dict[str, str]:
    tags = {"prefect.flow_run_id": run_id, "mlflow.source.name": "crash"}
    if settings.place.group:
        tags["crash.group"] = settings.place.group
    if user := os.environ.get("USER"):
        tags["mlflow.user"] = user
    if url := prefect_page(run_id):
        tags["prefect.url"] = url
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def git_commit() -> str | None:
    """Return the commit of the running code, where it runs from a checkout."""
    import subprocess

    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    answer = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or None
