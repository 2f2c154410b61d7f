"""Who waits for a run takes a crash for its end only when nobody schedules it again while somebody could."""

from datetime import datetime
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from flows.service import submit
from flows.service.reaper import GIVEN_UP, POLL_SECONDS, SETTLE_SECONDS
from flows.service.submit import AWAY, RESCHEDULE_SECONDS, WORKER, follow


class Clock:
    """Time that passes when somebody sleeps."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(submit, "time", clock)
    return clock


def state(name: str) -> SimpleNamespace:
    """What is asked of a state of Prefect; "Crashed: why" has a message."""
    name, _, message = name.partition(": ")
    final = name in ("Completed", "Crashed")
    return SimpleNamespace(
        name=name,
        message=message or None,
        timestamp=datetime(2026, 1, 1),
        is_final=lambda: final,
        is_crashed=lambda: name == "Crashed",
    )


def client(clock: Clock, course: dict[float, str | None]) -> SimpleNamespace:
    """A server whose run is in the state of the latest second that has come; None: it does not answer."""
    began = clock.now

    def read_flow_run(_: object) -> SimpleNamespace:
        name = next(name for second, name in reversed(course.items()) if clock.now - began >= second)
        if name is None:
            raise httpx.ConnectError("away")
        return SimpleNamespace(state=state(name))

    return SimpleNamespace(read_flow_run=read_flow_run)


def test_the_reaper_has_time_to_take_a_crash_up():
    assert RESCHEDULE_SECONDS > 2 * (SETTLE_SECONDS + 2 * POLL_SECONDS)


def test_a_crash_that_nobody_takes_up_is_the_end(clock):
    began = clock.now
    assert follow(client(clock, {0: "Running", 10: "Crashed"}), uuid4()).name == "Crashed"
    assert RESCHEDULE_SECONDS < clock.now - began - 10 < RESCHEDULE_SECONDS + 5


def test_a_crash_that_is_taken_up_is_not(clock):
    course = {0: "Running", 10: "Crashed", 10 + RESCHEDULE_SECONDS - 5: "Running", 200: "Completed"}
    assert follow(client(clock, course), uuid4()).name == "Completed"


def test_a_crash_that_is_given_up_is_the_end_at_once(clock):
    began = clock.now
    crashed = f"Crashed: {GIVEN_UP} after it was scheduled again 2 times: it died"
    assert follow(client(clock, {0: "Running", 10: "Crashed", 25: crashed}), uuid4()).name == "Crashed"
    assert clock.now - began < 30


def test_the_time_of_an_outage_does_not_count(clock):
    course = {0: "Running", 10: "Crashed", 20: None, 400: "Crashed", 400 + RESCHEDULE_SECONDS - 5: "Running"}
    assert follow(client(clock, {**course, 600: "Completed"}), uuid4()).name == "Completed"


def test_what_a_submitted_run_waits_for_is_said(clock, caplog):
    course = {0: "Scheduled", 25: "Running", 100: None, 120: "Running", 200: "Completed"}
    assert follow(client(clock, course), uuid4()).name == "Completed"
    assert caplog.messages == [
        f"waiting for {WORKER[0]}, 10 s so far; {WORKER[1]}",
        f"waited 25 s for {WORKER[0]}",
        f"waiting for {AWAY[0]}, 10 s so far; {AWAY[1]}",
        f"waited 20 s for {AWAY[0]}",
    ]
