"""Whoever waits says for what and since when, and a process that waits for another one's core names that process."""

import logging
import time

import pytest

from tasks.store.patience import EVERY_SECONDS, FIRST_SECONDS, Patience, watched


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_after_ten_seconds_then_once_a_minute_and_once_at_the_end(caplog):
    clock, holder = Clock(), ["process 1"]
    patience = Patience(lambda: f"a free core (taken by {holder[0]})", "end it", clock)
    said = []
    for second in range(0, 140):
        clock.now = 1000.0 + second
        if second == 30:
            holder[0] = "process 2"
        before = len(caplog.messages)
        patience.tick()
        if len(caplog.messages) > before:
            said.append((second, caplog.messages[-1]))
    assert (FIRST_SECONDS, EVERY_SECONDS) == (10, 60)
    assert said == [
        (10, "waiting for a free core (taken by process 1), 10 s so far; end it"),
        (70, "waiting for a free core (taken by process 2), 70 s so far; end it"),
        (130, "waiting for a free core (taken by process 2), 2 min so far; end it"),
    ]
    patience.over()
    patience.over()
    assert caplog.messages[3:] == ["waited 2 min for a free core (taken by process 2)"]
    # Seen also where nobody has set up a log: Python shows warnings then.
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_short_wait_and_one_that_is_nobodys_business_say_nothing(caplog):
    clock = Clock()
    short, own = Patience(lambda: "a lock", clock=clock), Patience(lambda: None, clock=clock)
    clock.now += 9
    short.tick()
    short.over()
    clock.now += 600
    own.tick()
    own.over()
    assert caplog.messages == []


def test_what_blocks_is_watched_by_a_thread(caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.05)
    with watched("the download of a model"):
        time.sleep(0.3)
    assert len(caplog.messages) == 2, "once while it lasted, and once at the end"
    assert caplog.messages[0].startswith("waiting for the download of a model, 0 s so far")
    assert caplog.messages[1].startswith("waited 0 s for the download of a model")
    with pytest.raises(ValueError, match="unknown"), watched("another one"):
        time.sleep(float("unknown") if time.sleep(0.2) is None else 0)
    assert caplog.messages[2:] == ["waiting for another one, 0 s so far"], "an error speaks for itself"
