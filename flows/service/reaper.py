"""`crash reap`: mark runs whose process is gone as crashed within two minutes, and reschedule them up to N times.

Prefect's runs send a heartbeat every 30 s. A run counts as gone when none has arrived for STALE_SECONDS on *this*
process's monotonic clock while the server answered all the time: clocks of different machines are never compared, and
no run counts as dead because the server was away. A run that reported its crash (SIGTERM of a spot instance, a process
that its worker saw die) is rescheduled at once.
"""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from flows.service.paging import pages

logger = logging.getLogger(__name__)
POLL_SECONDS = 5.0
# Two and a half heartbeats, so that one may be lost.
STALE_SECONDS = 75.0
# A process starts within seconds, but a busy machine that loads everything from disk may take a minute.
PENDING_SECONDS = 120.0
# Prefect's worker fails when it is given a run whose previous process it has not cleaned up yet.
SETTLE_SECONDS = 10.0
# Older crashes are not rescheduled.
RECENT = timedelta(days=1)
# The message of a final crash begins with this.
GIVEN_UP = "given up"
HEARTBEAT = "prefect.flow-run.heartbeat"
# Every flow of this project, since a run that was started by hand belongs to no pool.
OWN_FLOWS = ("crash", "search", "study", "sweep", "emulate", "tune", "plug-in", "audit", "incoming")
PAGE = 50
# One page, of the largest size that the server allows, holds the last two minutes of this many runs.
RUNS_A_QUESTION = 12


@dataclass
class Watch:
    """Each unfinished run's last sign of life, by our clock; without side effects, so that it can be tested."""

    stale_seconds: float = STALE_SECONDS
    pending_seconds: float = PENDING_SECONDS
    _seen: dict[UUID, float] = field(default_factory=dict)
    _signs: dict[UUID, set[UUID]] = field(default_factory=dict)
    _crashes: dict[UUID, float] = field(default_factory=dict)

    def observe(self, now: float, signs: dict[UUID, set[UUID]], running: dict[UUID, bool]) -> list[UUID]:
        """Return the runs that are gone.

        signs: ids of signs of life, at least the newest ones; an id not seen before is new, whatever its time stamp.
        running: for every unfinished run, whether it runs (otherwise it is about to start).
        """
        self._seen = {run: at for run, at in self._seen.items() if run in running}
        for run in running:
            known = self._signs.setdefault(run, set())
            if run not in self._seen or signs.get(run, set()) - known:
                self._seen[run] = now
            known |= signs.get(run, set())
        limit = {run: self.stale_seconds if runs else self.pending_seconds for run, runs in running.items()}
        return [run for run, at in self._seen.items() if now - at > limit[run]]

    def settled(self, now: float, crashes: Iterable[UUID]) -> set[UUID]:
        """Return those of the crashes (ids of states) that were first seen at least SETTLE_SECONDS ago."""
        self._crashes = {crash: self._crashes.get(crash, now) for crash in crashes}
        return {crash for crash, seen in self._crashes.items() if now - seen >= SETTLE_SECONDS}

    def forget(self) -> None:
        """Forget when runs were seen: the server was away, so that missing signs mean nothing."""
        self._seen.clear()


def reap(pool: str, once: bool = False) -> int:
    """Watch the pool's runs for ever, or look once; return the exit code."""
    from flows.running.environment import check_prefect

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    check_prefect()
    watch, most, trouble = Watch(), int(os.environ.get("CRASH_MAX_RESCHEDULES", "2")), False
    logger.info("watching the pool %s; a run is scheduled again at most %d times", pool, most)
    while True:
        try:
            look(pool, watch, most)
            trouble = False
        except Exception as error:
            if not trouble:
                logger.warning("the Prefect server does not answer (%s); waiting for it", type(error).__name__)
            trouble = True
            watch.forget()
        if once:
            return 0
        time.sleep(POLL_SECONDS)


def look(pool: str, watch: Watch, most: int) -> None:
    """Look once: mark runs that are gone as crashed, and reschedule crashed runs."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        unfinished = {run.id: run for run in _runs(client, pool, ["RUNNING", "PENDING", "CANCELLING"])}
        running = {run.id: run.state_type == "RUNNING" for run in unfinished.values()}
        # A change of state is a sign of life, as a heartbeat is.
        beats = _heartbeats(client, list(unfinished))
        signs = {run.id: beats.get(run.id, set()) | {run.state_id} for run in unfinished.values()}
        for gone in watch.observe(time.monotonic(), signs, running):
            run = unfinished[gone]
            logger.info("%s (%s) gives no sign of life: marked as crashed", run.name, run.id)
            message = "its process is gone: no heartbeat for more than a minute"
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            _crash_tasks(client, run.id)
        crashed = [run for run in _crashed(client, pool) if not (run.state.message or "").startswith(GIVEN_UP)]
        settled = watch.settled(time.monotonic(), [run.state_id for run in crashed])
        for run in crashed:
            if run.state_id in settled:
                client.set_flow_run_state(run.id, _what_follows(run, most), force=True)


def _what_follows(run: Any, most: int) -> Any:
    """Return the state after a crash: rescheduled, or crashed for good, with a message for those who follow the run."""
    from prefect.states import AwaitingRetry, Crashed

    why = run.state.message or "it crashed"
    if run.run_count > most:
        logger.info("%s (%s) crashed again: given up", run.name, run.id)
        return Crashed(message=f"{GIVEN_UP} after it was scheduled again {most} times: {why}")
    logger.info("%s (%s) crashed: scheduled again, %d of %d", run.name, run.id, run.run_count, most)
    message = f"scheduled again, {run.run_count} of {most}; finished stages are found. Before: {why}"
    return AwaitingRetry(message=message)


def _runs(client: Any, pool: str, states: list[Any]) -> list[Any]:
    """Read the runs in one of the states, of the pool and of our flows started by hand."""
    from prefect.client.schemas import filters

    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=states))
    where = filters.FlowRunFilter(state=state)
    pooled = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[pool]))
    own = filters.FlowFilter(name=filters.FlowFilterName(any_=list(OWN_FLOWS)))
    read = partial(client.read_flow_runs, flow_run_filter=where)
    found = [*pages(partial(read, work_pool_filter=pooled), PAGE), *pages(partial(read, flow_filter=own), PAGE)]
    return list({run.id: run for run in found}.values())


def _heartbeats(client: Any, runs: list[UUID]) -> dict[UUID, set[UUID]]:
    """Read the ids of each run's newest heartbeats."""
    from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter

    latest: dict[UUID, set[UUID]] = {}
    now: Any = datetime.now(UTC)
    # Wide on both sides, since the clock of the machine that sent them may be wrong by days.
    when = EventOccurredFilter(since=now - timedelta(days=30), until=now + timedelta(days=30))
    for begin in range(0, len(runs), RUNS_A_QUESTION):
        names = [f"prefect.flow-run.{run}" for run in runs[begin : begin + RUNS_A_QUESTION]]
        where = EventFilter(
            occurred=when, event=EventNameFilter(name=[HEARTBEAT]), resource=EventResourceFilter(id=names)
        )
        for event in client.read_events(where, limit=PAGE).events:
            run = UUID(event.resource["prefect.resource.id"].rpartition(".")[2])
            latest.setdefault(run, set()).add(event.id)
    return latest


def _crashed(client: Any, pool: str) -> list[Any]:
    """Read the recently crashed runs of deployments, which a worker can take again."""
    since = datetime.now(UTC) - RECENT
    runs = [run for run in _runs(client, pool, ["CRASHED"]) if run.deployment_id and run.work_pool_name == pool]
    return [run for run in runs if run.state and run.state.timestamp >= since]


def _crash_tasks(client: Any, run: UUID) -> None:
    """Mark the unfinished tasks of a dead run as crashed."""
    from prefect.client.schemas import filters
    from prefect.states import Crashed

    unfinished: list[Any] = ["RUNNING", "PENDING"]
    state = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=unfinished))
    where = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run]))
    for task in client.read_task_runs(flow_run_filter=where, task_run_filter=filters.TaskRunFilter(state=state)):
        client.set_task_run_state(task.id, Crashed(message="the run's process is gone"), force=True)
