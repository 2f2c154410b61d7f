"""One computes, the others wait; the dead never block; the lock file's content means nothing (F15, F16)."""

import logging
import multiprocessing
import os
import signal
import threading
import time

import pytest
from filelock import Timeout

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.store.locks import key_lock

KEY = "a" * 64


def hold(folder, ready) -> None:
    """Take the lock, say so, and never give it back."""
    with key_lock(folder, "tune", KEY):
        ready.set()
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_excludes_another_process_and_says_for_whom_it_waits(tmp_path, holder, caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.locks.PATIENCE_SECONDS", 0.1)
    # Ten seconds otherwise.
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    with pytest.raises(Timeout), key_lock(tmp_path, "tune", KEY, blocking=False):
        pass
    got = threading.Event()

    def wait() -> None:
        with key_lock(tmp_path, "tune", KEY):
            got.set()

    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        assert not got.is_set()
        # F15: killed while holding.
        os.kill(holder.pid, signal.SIGKILL)
        assert got.wait(2)
        thread.join()
    assert caplog.text.count(f"waiting for tune {KEY[:12]}, which process {holder.pid} on") == 1
    assert f"s for tune {KEY[:12]}, which process {holder.pid} on" in caplog.messages[-1]


def test_what_another_thread_of_this_process_computes_is_not_waited_for_aloud(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.locks.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    with key_lock(tmp_path, "tune", KEY):
        thread = threading.Thread(target=lambda: key_lock(tmp_path, "tune", KEY).__enter__(), daemon=True)
        thread.start()
        time.sleep(0.4)
        assert thread.is_alive()
    thread.join(10)
    assert "waiting" not in caplog.text


def test_another_key_does_not_wait(tmp_path, holder):
    with key_lock(tmp_path, "tune", "b" * 64, blocking=False), key_lock(tmp_path, "cluster", KEY, blocking=False):
        pass


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with key_lock(tmp_path, "tune", KEY):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("content", [b"", b"\xff\x00garbage", b'{"pid": 1}'])
def test_f16_garbage_in_the_lock_files(tmp_path, content):
    for suffix in (".lock", ".holder"):
        (tmp_path / f"tune-{KEY[:32]}{suffix}").write_bytes(content)
    with key_lock(tmp_path, "tune", KEY, blocking=False):
        pass


def test_f16_a_lock_that_cannot_be_made_is_an_error_not_a_wait(tmp_path):
    (tmp_path / "locks").write_text("a file where the folder should be")
    message = r"cannot be taken \(.*\); make the store writable"
    with pytest.raises(EnvironmentFault, match=message), key_lock(tmp_path / "locks", "tune", KEY):
        pass


def test_waiting_ends_when_the_run_is_stopped(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("tasks.store.locks.PATIENCE_SECONDS", 0.1)
    with (
        pytest.raises(InterruptedRun, match="while waiting for tune"),
        key_lock(tmp_path, "tune", KEY, stopped=lambda: True),
    ):
        pass


@pytest.mark.parametrize("kind", ["folder", "link into nowhere", "link to itself"])
def test_f16_something_else_in_the_place_of_the_lock_never_hangs(tmp_path, kind):
    path = tmp_path / f"tune-{KEY[:32]}.lock"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "nowhere" / "at all")
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="cannot be taken"), key_lock(tmp_path, "tune", KEY):
        pass
    assert time.monotonic() - began < 5


def test_f16_a_note_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / f"tune-{KEY[:32]}.holder").mkdir()
    with key_lock(tmp_path, "tune", KEY):
        pass


def test_given_back_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), key_lock(tmp_path, "tune", KEY):
        raise RuntimeError
    with key_lock(tmp_path, "tune", KEY, blocking=False):
        pass
