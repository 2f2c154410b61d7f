"""Cores and GPUs are never given out twice, and a stage that wants more than there is gets all there is."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.engine.resources import Resources, machine_folder, require_device, visible_gpus


def test_never_more_than_there_are():
    resources = Resources(2, ["0", "1", "2"])
    at_once, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with resources.take(1, 1):
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.01)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 2


def test_a_large_wish_takes_all_and_gives_it_back():
    resources = Resources(2, ["0"])
    with resources.take(99, 99) as share:
        assert (share.cores, share.gpus, share.device) == (2, ["0"], "cuda:0")
    with resources.take(2, 1) as share:
        assert share.environment()["CUDA_VISIBLE_DEVICES"] == "0"


def test_two_gpus_spread_one_model():
    with Resources(1, ["3", "5"]).take(1, 2) as share:
        assert share.device == "auto"
        assert share.environment()["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_given_back_after_an_error():
    resources = Resources(1)
    with pytest.raises(RuntimeError), resources.take(1):
        raise RuntimeError
    with resources.take(1) as share:
        assert share.device == "cpu"


def test_gpus_as_the_environment_names_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("NoDevFiles", []),
        ("0,none,1", ["0"]),
        ("1,-1,0", ["1"]),
        ("0,0", []),
        ("GPU-12ab, MIG-34cd", ["GPU-12ab", "MIG-34cd"]),
    ],
)
def test_odd_names_of_gpus_are_read_as_cuda_reads_them(monkeypatch, value, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    require_device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="CUDA_VISIBLE_DEVICES"):
        require_device("cuda:0")


def test_places_of_another_user_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert machine_folder().is_relative_to(tmp_path)
    owner = os.getuid()
    (tmp_path / f"crash-places-{owner + 1}").mkdir()
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    with pytest.raises(EnvironmentFault, match="belongs to another user"):
        machine_folder()


def hold(folder, gpus, ready, seconds):
    """Take one core and the GPUs, say so, and keep them."""
    with Resources(2, ["0", "1"], folder).take(1, gpus, label="tune · seed 0") as share:
        ready.send(share.gpus)
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold places of one machine; ends them."""
    context, started = multiprocessing.get_context("spawn"), []

    def start(gpus: int, seconds: float = 60):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=hold, args=(tmp_path, gpus, sending, seconds))
        process.start()
        started.append(process)
        return process, receiving

    yield start
    for process in started:
        process.kill()
        process.join()


def test_two_processes_never_get_the_same_gpu_and_cpu_stages_do_not_wait_for_gpus(tmp_path, holder):
    (_, first), (_, second) = holder(1), holder(1)
    assert sorted([*first.recv(), *second.recv()]) == ["0", "1"]
    both = Resources(3, ["0", "1"], tmp_path)
    waiting = threading.Thread(target=lambda: both.take(1, 1).__enter__(), daemon=True)
    waiting.start()
    time.sleep(0.2)
    with both.take(1) as share:
        assert share.gpus == []
    assert waiting.is_alive(), "there was no GPU to be had"


def test_a_killed_holder_gives_its_gpu_back_at_once(tmp_path, holder):
    process, receiving = holder(2)
    assert receiving.recv() == ["0", "1"]
    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    with Resources(2, ["0", "1"], tmp_path).take(1, 2) as share:
        assert share.gpus == ["0", "1"]
    assert time.monotonic() - began < 2


def test_who_waits_is_told_that_the_run_is_over(tmp_path, holder):
    _, receiving = holder(2)
    receiving.recv()
    machine = Resources(2, ["0", "1"], tmp_path)
    with pytest.raises(InterruptedRun), machine.take(1, 1, stopped=lambda: True):
        pass
    with machine.take(1) as share:
        assert share.cores == 1, "what the interrupted one held was given back"


def test_who_waits_for_another_process_names_it_and_its_stage(tmp_path, holder, caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    process, receiving = holder(2)
    receiving.recv()
    machine = Resources(2, ["0", "1"], tmp_path)
    got = threading.Event()

    def wait() -> None:
        with machine.take(1, 1):
            got.set()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.6)
    taken = f"waiting for a free GPU (2 of 2 taken by process {process.pid} on {os.uname().nodename} (tune · seed 0)), "
    assert [message.startswith(taken) for message in caplog.messages] == [True], "the first in line says so, no other"
    assert caplog.messages[0].endswith("so far; wait for it, or end that process")
    os.kill(process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    assert got.is_set()
    assert caplog.messages[1].startswith("waited ")
    assert not list(tmp_path.glob("gpu-*.holder")), "who gives a place back takes its note along"


def test_what_stages_of_one_run_take_is_not_waited_for_aloud(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    machine = Resources(1, [], tmp_path)
    with machine.take(1):
        thread = threading.Thread(target=lambda: machine.take(1).__enter__(), daemon=True)
        thread.start()
        time.sleep(0.5)
    thread.join(10)
    assert caplog.messages == []
