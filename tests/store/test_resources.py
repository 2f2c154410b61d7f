"""Cores and GPUs are never given out twice, and a stage that wants more than there is gets all there is."""

import threading
import time

import pytest

from tasks.store.precision import resolve_precision
from tasks.store.resources import Resources, visible_gpus


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


def test_precision_is_what_was_asked_for_or_what_the_hardware_has(monkeypatch):
    assert resolve_precision("float32") == "float32"
    monkeypatch.setattr("tasks.store.precision.has_bfloat16_units", lambda: True)
    assert resolve_precision("auto") == "bfloat16"
    monkeypatch.setattr("tasks.store.precision.has_bfloat16_units", lambda: False)
    assert resolve_precision("auto") == "float32"
