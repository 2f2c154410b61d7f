"""Memory and GPU figures: measured on the CPU; where there is a GPU, asked of torch, which is imitated here."""

from collections.abc import Callable

import pytest
import torch

from tasks.engine.usage import GIB, UTILIZATION_SECONDS, Usage


def test_memory_of_this_process_follows_what_it_takes():
    usage = Usage("cpu")
    before = usage.read()
    taken = torch.ones(GIB // 4 // 4)
    after = usage.read()
    assert before.keys() == after.keys() == {"memory_gib"}
    assert after["memory_gib"] - before["memory_gib"] == pytest.approx(0.25, abs=0.05)
    assert len(taken)


class Cuda:
    """Two GPUs, as `torch.cuda` tells of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, utilization: Callable[[int], int]) -> None:
        self.asked: list[int] = []

        def count(gpu: int) -> int:
            self.asked.append(gpu)
            return utilization(gpu)

        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda gpu: (gpu + 1) * GIB)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: (gpu + 3) * GIB)
        monkeypatch.setattr(torch.cuda, "utilization", count)


def test_of_every_gpu_that_the_stage_computes_on(monkeypatch):
    Cuda(monkeypatch, lambda gpu: 40 + gpu)
    values = Usage("auto").read()
    del values["memory_gib"]
    assert values == {
        "gpu0_memory_gib": 1.0,
        "gpu0_peak_memory_gib": 3.0,
        "gpu0_utilization_percent": 40.0,
        "gpu1_memory_gib": 2.0,
        "gpu1_peak_memory_gib": 4.0,
        "gpu1_utilization_percent": 41.0,
    }
    second = {"process1_memory_gib", "gpu1_memory_gib", "gpu1_peak_memory_gib", "gpu1_utilization_percent"}
    assert Usage("cuda:1", rank=1).read().keys() == second
    assert Usage("cpu").read().keys() == {"memory_gib"}


def test_the_driver_is_asked_once_a_second(monkeypatch):
    cuda, now = Cuda(monkeypatch, lambda gpu: 7), [100.0]
    monkeypatch.setattr("tasks.engine.usage.time.monotonic", lambda: now[0])
    usage = Usage("cuda:0")
    for _ in range(5):
        assert usage.read()["gpu0_utilization_percent"] == 7.0
    assert cuda.asked == [0]
    now[0] += UTILIZATION_SECONDS
    usage.read()
    assert cuda.asked == [0, 0]


def test_without_the_drivers_library_there_is_no_figure_and_no_noise(monkeypatch, recwarn, caplog):
    def missing(gpu: int) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    cuda = Cuda(monkeypatch, missing)
    usage = Usage("cuda:0")
    for _ in range(3):
        assert usage.read().keys() == {"memory_gib", "gpu0_memory_gib", "gpu0_peak_memory_gib"}
    assert cuda.asked == [0]
    assert not recwarn.list
    assert not caplog.records
