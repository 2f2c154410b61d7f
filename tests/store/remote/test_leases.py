"""One machine at a time holds a key; a dead one is followed, a living one never, whatever the clocks say (F15, F22)."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.store.processes import is_gone, this_process
from tasks.store.remote.leases import Leases, LeaseTimes
from tasks.store.remote.objects import Remote
from tests.places import ROOT

KEY = "a" * 64
TIMES = LeaseTimes(beat=0.2, silence=1.5, look=0.05)
HOLD = """
import sys, time
from tasks.store.remote.leases import Leases, LeaseTimes
from tasks.store.remote.objects import Remote
with Leases(Remote(sys.argv[1], first_wait=0.05), LeaseTimes(beat=0.2)).hold("tune", sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def leases(objects):
    return Leases(Remote(objects.url, first_wait=0.02), TIMES)


def start_holder(url: str, *before: str) -> subprocess.Popen:
    """A process that holds the lease, perhaps on another machine."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, url, KEY],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    if process.stdout.readline() != "held\n":
        process.wait()
        pytest.skip(f"{before} is not allowed here")
    return process


def seconds_to_take(leases: Leases) -> float:
    began = time.monotonic()
    with leases.hold("tune", KEY):
        return time.monotonic() - began


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_nothing_is_left_after_a_normal_end(leases, objects):
    with leases.hold("tune", KEY):
        assert objects.names() == [f"leases/tune-{KEY}/000001.json"]
    assert objects.names() == []


def test_threads_exclude_each_other(leases):
    inside, most, held = 0, 0, Counter()

    def work(number: int) -> None:
        nonlocal inside, most
        with leases.hold("tune", KEY):
            inside += 1
            most = max(most, inside)
            held[number] += 1
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(held)) == (1, 8)


def test_after_an_error_the_next_one_does_not_wait(leases, objects):
    with pytest.raises(RuntimeError), leases.hold("tune", KEY):
        raise RuntimeError
    [name] = objects.names()
    assert json.loads(objects.read(name))["state"] == "released"
    assert seconds_to_take(Leases(leases.remote, LeaseTimes(silence=600))) < 10
    assert objects.names() == []


def test_f15_a_holder_killed_on_this_machine_is_followed_at_once(leases, objects):
    holder = start_holder(objects.url)
    end(holder)
    patient = Leases(leases.remote, LeaseTimes(silence=600))
    assert seconds_to_take(patient) < 10
    assert objects.names() == []


def test_f15_a_holder_killed_on_another_machine_is_followed_after_its_silence(leases, objects):
    holder = start_holder(objects.url, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    [name] = objects.names()
    assert json.loads(objects.read(name))["host"] == "elsewhere"
    end(holder)
    assert TIMES.silence <= seconds_to_take(leases) < TIMES.silence + 10


def test_a_living_holder_is_never_followed(leases, objects, caplog, monkeypatch):
    # Ten seconds otherwise.
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    holder = start_holder(objects.url, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    begun = time.monotonic()
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(InterruptedRun, match="while waiting for tune"),
        leases.hold("tune", KEY, stopped=lambda: time.monotonic() - begun > 3 * TIMES.silence),
    ):
        pass
    assert caplog.text.count(f"waiting for tune {KEY[:12]}, which process {holder.pid} on elsewhere computes") == 1
    end(holder)


def test_a_stopped_holder_that_wakes_up_does_not_take_it_back(leases, objects, caplog):
    holder = start_holder(objects.url, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    os.kill(holder.pid, signal.SIGSTOP)
    with leases.hold("tune", KEY):
        os.kill(holder.pid, signal.SIGCONT)
        time.sleep(3 * 0.2)
        with pytest.raises(InterruptedRun), leases.hold("tune", KEY, stopped=lambda: True):
            pass
    end(holder)


def test_f22_a_clock_that_jumps_changes_nothing(leases, objects, monkeypatch):
    def jumping(real=time.time) -> float:
        return real() + 86_400 * (1 if int(real() * 20) % 2 else -1)

    monkeypatch.setattr(time, "time", jumping)
    holder = start_holder(objects.url, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    begun = time.monotonic()
    with (
        pytest.raises(InterruptedRun),
        leases.hold("tune", KEY, stopped=lambda: time.monotonic() - begun > 2 * TIMES.silence),
    ):
        pass
    end(holder)
    assert TIMES.silence <= seconds_to_take(leases) < TIMES.silence + 10


def test_an_outage_of_the_server_is_no_silence_of_the_holder(objects):
    holder = start_holder(objects.url, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
    patient = Leases(Remote(objects.url, attempts=9, first_wait=0.02), TIMES)
    outcome, begun = [], time.monotonic()

    def wait() -> None:
        try:
            with patient.hold("tune", KEY, stopped=lambda: time.monotonic() - begun > 5):
                outcome.append("taken")
        except InterruptedRun:
            outcome.append("waited")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    objects.stop()
    time.sleep(TIMES.silence + 0.5)
    objects.start()
    thread.join()
    assert outcome == ["waited"]
    end(holder)


@pytest.mark.parametrize("content", [b"", b"\xff garbage", b"[1]", b'{"pid": "x", "state": 5}'])
def test_f16_a_note_that_is_garbage_counts_as_silent(leases, objects, content):
    objects.write(f"leases/tune-{KEY}/000007.json", content)
    objects.write(f"leases/tune-{KEY}/readme.txt", b"not a lease")
    assert TIMES.silence <= seconds_to_take(leases) < TIMES.silence + 10
    assert objects.names() == [f"leases/tune-{KEY}/readme.txt"]


def test_who_counts_on_from_a_lease_that_was_deleted_gives_way(leases, objects, monkeypatch):
    """After a publication one waiter begins at 1 while another still creates the next of the old generations."""
    objects.write(f"leases/tune-{KEY}/000003.json", b'{"state": "released"}')
    create, others = leases.remote.create, []

    def overtaken(name: str, content: bytes) -> bool:
        if name.endswith("000004.json") and not others:
            objects.remove(f"leases/tune-{KEY}/000003.json")
            objects.write(f"leases/tune-{KEY}/000001.json", b'{"state": "held"}')
            others.append(name)
        return create(name, content)

    monkeypatch.setattr(leases.remote, "create", overtaken)
    begun = time.monotonic()
    with (
        pytest.raises(InterruptedRun),
        leases.hold("tune", KEY, stopped=lambda: time.monotonic() - begun > 0.5),
    ):
        pass
    assert others
    assert objects.names() == [f"leases/tune-{KEY}/000001.json"]


def test_a_server_that_is_away_is_an_error_not_a_wait(leases, objects):
    objects.stop()
    with pytest.raises(EnvironmentFault, match=objects.url), leases.hold("tune", KEY):
        pass


def test_a_holder_outlives_an_outage(leases, objects, caplog):
    with leases.hold("tune", KEY):
        objects.stop()
        time.sleep(1)
        objects.start()
        time.sleep(0.5)
        assert json.loads(objects.read(f"leases/tune-{KEY}/000001.json"))["beat"] > 1
    assert caplog.text.count("could not be renewed") == 1
    assert objects.names() == []


def test_only_of_this_machine_is_it_known_that_a_process_is_gone():
    here = this_process()
    assert not is_gone(here)
    assert is_gone({**here, "pid": 999_999_999})
    assert is_gone({**here, "started": "1"}), "another process has got the number"
    assert not is_gone({**here, "pid": 999_999_999, "host": "elsewhere"})
    assert not is_gone({**here, "pid": 999_999_999, "kernel": "another container"})
    assert not is_gone({})
