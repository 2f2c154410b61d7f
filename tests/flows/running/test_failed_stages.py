"""A stage that never starts because one before it failed: the run ends with the error of the one that failed."""

import threading
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed, Failed, Pending

from flows.running.run import Run
from tasks.core.errors import EnvironmentFault


def ended(state: Any) -> PrefectConcurrentFuture[Any]:
    """The future of a stage that has ended with `state`."""
    wrapped: Future[Any] = Future()
    wrapped.set_result(state)
    return PrefectConcurrentFuture(uuid4(), wrapped)


def failed() -> PrefectConcurrentFuture[Any]:
    return ended(Failed(data=EnvironmentFault("the store is read-only")))


def not_ready() -> PrefectConcurrentFuture[Any]:
    return ended(Pending(name="NotReady"))


def run_of(*futures: Any) -> Run[Any]:
    run: Run[Any] = Run.__new__(Run)
    run._futures, run._before = list(futures), []
    run.facts = {"precision": "float32"}
    return run


def part_of(run: Run[Any], *futures: Any) -> Run[Any]:
    """A part with these stages, as a search makes one for each plan."""
    settings: Any = None
    part = run.changed(settings)
    part._futures.extend(futures)
    return part


def test_finish_raises_the_error_of_the_stage_that_failed_in_any_order() -> None:
    for _ in range(8):
        last = not_ready()
        # Prefect goes through a set of futures, in the order of their addresses.
        run = run_of(*[not_ready() for _ in range(6)], failed(), last)
        with pytest.raises(EnvironmentFault, match="read-only"):
            run.finish(last)


def test_finish_does_not_wait_for_a_stage_that_still_runs() -> None:
    still_running: PrefectConcurrentFuture[Any] = PrefectConcurrentFuture(uuid4(), Future())
    last = not_ready()
    run = run_of(still_running, failed(), last)
    raised = []

    def finish() -> None:
        try:
            run.finish(last)
        except EnvironmentFault as error:
            raised.append(error)

    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(10.0)
    assert raised


def test_a_part_names_the_failed_stage_of_the_run_it_belongs_to() -> None:
    whole = run_of(ended(Completed(data=1)))
    part = part_of(part_of(whole), not_ready())
    # A search makes its parts first.
    whole._futures.append(failed())
    with pytest.raises(EnvironmentFault, match="read-only"):
        part.wait()


def test_a_part_prefers_its_own_failed_stage() -> None:
    other = ended(Failed(data=EnvironmentFault("another part")))
    with pytest.raises(EnvironmentFault, match="read-only"):
        part_of(run_of(other), not_ready(), failed()).wait()


def test_a_part_does_not_wait_for_stages_that_still_run() -> None:
    still_running: PrefectConcurrentFuture[Any] = PrefectConcurrentFuture(uuid4(), Future())
    with pytest.raises(EnvironmentFault, match="read-only"):
        part_of(run_of(still_running, failed()), not_ready(), still_running).wait()


def test_a_stage_without_a_failed_one_before_it_is_said_as_prefect_does() -> None:
    with pytest.raises(UnfinishedRun):
        run_of(not_ready()).wait()
