"""Runs on the work pool: submit them, follow their log, and show their table."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.running.environment import check_prefect, prefect_page
from flows.service.paging import pages
from flows.service.reaper import GIVEN_UP
from flows.settings.group import FOLDERS
from flows.settings.reading import change_folders, each_folder
from flows.settings.run import Settings
from flows.settings.variants import AXIS, NAME, overrides
from tasks.core import errors
from tasks.core.errors import EnvironmentFault, InputError
from tasks.data.sources import NAME_PLACE
from tasks.store.patience import Patience

POLL_SECONDS = 1.0
# The reaper decides what follows each crash; if there is none yet, a crash is final after this time, during which the
# server has to answer.
RESCHEDULE_SECONDS = 180.0
LOG_PAGE = 200
# Prefect's name for the state of a rescheduled run.
RESCHEDULED = "AwaitingRetry"
# Names of the states of a run that no worker has taken yet.
UNTAKEN = ("Scheduled", "Late", RESCHEDULED)
# Things that a run on the pool may wait for, each with advice.
AWAY = ("the Prefect server to answer", "runs go on meanwhile")
WORKER = ("a worker of the pool to take the run", "start one with `crash up` or `crash worker`, or wait for a free one")
LATE = timedelta(seconds=5)
# Log lines that do not help somebody who waits for a result: how Prefect gets the code, and the ends of stages, which
# log their results anyway.
NOISE = ("deployment step", "deployment pull step", "Finished in state Completed()")


def submit(deployment: str, settings: Settings, grid: dict[str, list[Any]] | None = None) -> int:
    """Run a deployment with these settings, print its log and its table, and return the exit code. grid: of a study."""
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError("--pool needs a Prefect server: start one with `crash up`, or set PREFECT_API_URL")
    check_prefect()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        given = {"settings": portable(settings)} | ({} if grid is None else {"grid": portable_grid(grid)})
        run = start(client, deployment, given)
        print(f"{deployment} runs on the pool: {prefect_page(str(run))}")
        print("Ctrl-C stops looking, not the run.\n")
        final = follow(client, run, _printer(client, run))
        if final.is_completed():
            print(f"\n{markdown(client, run, 'report')}")
            return 0
        print(f"\nThe run ended as {final.name}: {final.message}")
        return exit_code(final)


def portable(settings: Settings) -> dict[str, Any]:
    """Return settings as flow parameters: only those that were set, so that the worker's places apply, with absolute
    folders.
    """
    values = settings.model_dump(mode="json", exclude_unset=True)
    change_folders(values, _absolute)
    return values


def portable_grid(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return axes as flow parameters, with absolute folders, also inside variants."""
    folders = {".".join(place) for place in FOLDERS}

    def changed(key: str, value: Any) -> Any:
        if key != AXIS:
            return each_folder(value, _absolute) if key in folders else value
        flat = {name: changed(name, part) for name, part in overrides(value).items()}
        return {NAME: value[NAME], **flat}

    return {key: [changed(key, value) for value in values] for key, values in grid.items()}


def _absolute(text: Any) -> Any:
    # Of a path for several tasks, the part that they have in common.
    known = isinstance(text, str) and Path(text.partition(NAME_PLACE)[0] or ".").exists()
    return str(Path(text).absolute()) if known else text


def has_worker(state: Any) -> bool:
    """Whether a worker has taken the run, or the run is over."""
    return state is not None and state.name not in UNTAKEN


class Waiting:
    """Logs what a run on the pool waits for, one thing at a time."""

    def __init__(self) -> None:
        self._what: tuple[str, str] | None = None
        self._patience: Patience | None = None

    def for_what(self, what: tuple[str, str] | None) -> None:
        """Set what the run waits for now, with advice; None if nothing."""
        if what != self._what:
            if self._patience:
                self._patience.over()
            self._what, self._patience = what, Patience(lambda: what[0], what[1], time.monotonic) if what else None
        if self._patience:
            self._patience.tick()


class Settled:
    """Tells whether a run is over; a crash that is rescheduled is not the end."""

    def __init__(self) -> None:
        self._crashed_since: float | None = None

    def __call__(self, state: Any) -> bool:
        """Whether the run is over, from its present state."""
        if state is None or not state.is_final():
            self._crashed_since = None
            return False
        if not state.is_crashed() or (state.message or "").startswith(GIVEN_UP):
            return True
        self._crashed_since = self._crashed_since or time.monotonic()
        return time.monotonic() - self._crashed_since > RESCHEDULE_SECONDS

    def forget(self) -> None:
        """Restart the time for a crash: the server was away, and perhaps the reaper with it."""
        self._crashed_since = None


def start(client: Any, deployment: str, parameters: dict[str, Any], **options: Any) -> UUID:
    """Create a run of a deployment and return its id.

    Raises:
        InputError: when there is no such deployment, or it refuses the parameters.
    """
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        found = client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise InputError(f"the server has no deployment {deployment}; make them with `crash deploy`") from error
    try:
        return client.create_flow_run_from_deployment(found.id, parameters=parameters, **options).id
    except PrefectHTTPStatusError as error:
        raise InputError(f"{deployment} does not take these settings: {error.response.text}") from error


def follow(client: Any, run: UUID, each_time: Callable[[], None] = lambda: None) -> Any:
    """Wait for the end of a run, through outages and crashes that are rescheduled; return the final state."""
    import httpx

    over, told = Settled(), ""
    wait = Waiting()
    while True:
        try:
            each_time()
            state = client.read_flow_run(run).state
        except httpx.HTTPError:
            over.forget()
            wait.for_what(AWAY)
            time.sleep(POLL_SECONDS)
            continue
        wait.for_what(None if has_worker(state) else WORKER)
        if state and (state.is_crashed() or state.name == RESCHEDULED) and state.message != told:
            told = state.message
            print(f"{state.timestamp:%H:%M:%S}  {told}", flush=True)
        if over(state):
            return state
        time.sleep(POLL_SECONDS)


def markdown(client: Any, run: UUID, key: str) -> str:
    """Return the newest text of a run's Markdown artifact."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    where = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[key]))
    found = client.read_artifacts(artifact_filter=where, sort=ArtifactSort.CREATED_DESC, limit=1)
    return str(found[0].data) if found else "(its report did not reach the Prefect server; look at it in MLflow)"


def exit_code(state: Any) -> int:
    """Return the exit code that the command would have had here, by the error that Prefect's message names."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CrashError)]
    named = [kind.exit_code for kind in kinds if kind.__name__ in (state.message or "")]
    if state.is_cancelled():
        return 130
    return named[0] if named else EnvironmentFault.exit_code if state.is_crashed() else 1


def _printer(client: Any, run: UUID) -> Callable[[], None]:
    """Return a function that prints what the run has logged since its last call."""
    lines = _lines(client, run)

    def show() -> None:
        for line in lines:
            if line is None:
                return
            print(line, flush=True)

    return show


def _lines(client: Any, run: UUID) -> Iterator[str | None]:
    """Yield log lines as they arrive, each once; None when there are no more for now."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
    from prefect.client.schemas.sorting import LogSort

    seen: set[UUID] = set()
    since: Any = datetime(1970, 1, 1, tzinfo=UTC)
    while True:
        # Lines of other processes arrive late, so the last few seconds are read again.
        newest = LogFilterTimestamp(after_=since - LATE)
        where = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]), timestamp=newest)
        for entry in pages(partial(client.read_logs, where, sort=LogSort.TIMESTAMP_ASC), LOG_PAGE):
            since = max(since, entry.timestamp)
            if entry.id not in seen and not any(words in entry.message for words in NOISE):
                yield f"{entry.timestamp:%H:%M:%S}  {entry.message}"
            seen.add(entry.id)
        yield None
