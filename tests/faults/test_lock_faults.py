"""The holder of a key's lock is killed, or has another clock than the one that waits (F15, F22)."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.clocks import days_off, needs_faketime, shifted
from tests.places import ROOT


class Holder:
    """`lock_holder.py` with the words that it says."""

    def __init__(self, folder: Path, how: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.lock_holder", str(folder), how],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            # A buffer would take a second line with the first one, which `select` does not see then.
            bufsize=0,
            env={**os.environ, **environment},
        )

    def says(self, seconds: float = 60) -> list[str]:
        """Its next line, in words."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "it says nothing"
        return self.process.stdout.readline().decode().split()

    def silent(self, seconds: float) -> bool:
        """Whether it says nothing for a while."""
        return not select.select([self.process.stdout], [], [], seconds)[0]


@pytest.fixture
def start(tmp_path):
    """Start holders, all at one lock; none outlives the test."""
    started = []

    def begin(how: str, **environment: str) -> Holder:
        started.append(Holder(tmp_path, how, **environment))
        return started[-1]

    yield begin
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def killed_and_given(holder: Holder, waiter: Holder) -> float:
    """Kill the holder with -9; seconds until the waiter has the lock."""
    assert waiter.says() == ["waiting"]
    assert waiter.silent(1)
    began = time.monotonic()
    holder.process.send_signal(signal.SIGKILL)
    word, given, _ = waiter.says(10)
    assert word == "held"
    return float(given) - began


def test_f15_a_waiter_goes_on_when_the_holder_is_killed(start):
    holder = start("hold")
    assert holder.says()[0] == "held"
    assert 0 < killed_and_given(holder, start("wait")) < 2
    assert holder.process.wait() == -signal.SIGKILL


def test_f15_children_that_outlive_the_holder_do_not_hold_its_lock(start):
    holder = start("fork")
    assert holder.says()[0] == "held"
    children = [int(word) for word in holder.says()[1:]]
    try:
        assert 0 < killed_and_given(holder, start("wait")) < 2
        assert all(Path(f"/proc/{child}").exists() for child in children), "they live"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


@needs_faketime
@pytest.mark.parametrize(("offset", "days"), [("+1d", 1), ("-1d", -1), ("+5000d", 5000)])
def test_f22_no_lock_expires_whatever_the_clocks_say(start, offset, days):
    holder = start("hold", **shifted(offset))
    word, _, clock = holder.says()
    assert (word, days_off(float(clock))) == ("held", days), "the clock is off"
    # Who looks has the right clock, or one that is off the other way.
    assert start("try").says()[0] == "taken"
    assert start("try", **shifted("-1d")).says()[0] == "taken"
    assert killed_and_given(holder, start("wait")) < 2


@needs_faketime
def test_f22_a_clock_that_jumps_while_the_lock_is_held(start, tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    holder = start("hold", **shifted(clock))
    assert holder.says()[0] == "held"
    waiter = start("wait", **shifted(clock))
    assert waiter.says() == ["waiting"]
    for offset in ("+1d", "-1d", "+5000d"):
        clock.write_text(offset)
        # Longer than libfaketime keeps what it has read.
        assert waiter.silent(1.5)
        word, _, seen = start("try", **shifted(clock)).says()
        assert (word, days_off(float(seen))) == ("taken", int(offset[:-1]))
    began = time.monotonic()
    holder.process.kill()
    assert waiter.says(10)[0] == "held"
    assert time.monotonic() - began < 2
