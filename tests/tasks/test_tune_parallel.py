"""Tune with two processes, on the CPU: the weights of one, whatever happens to either of them (F1, F17, F20)."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import CrashError, DivergedError, InterruptedRun, StageKilledError
from tasks.core.tuning.losses import LossModule
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.engine.work import Work
from tasks.store.artifacts import Ref, Store
from tasks.store.metrics import read_metrics
from tasks.tune import tune
from tests.tasks.chain import Chain

# What two processes computed undisturbed serves several tests.
# Rounding stays rounding: see tests/core/tuning/test_parallel.py. Long enough to be hit in the middle.
LONG: dict[str, Any] = {
    "learning_rate": 2e-5,
    "num_steps": 300,
    "eval_steps": 20,
    "max_tokens": 60,
    "batch_size": 5,
    "checkpoint_steps": 10,
}
BOTH = ("memory_gib", "process1_memory_gib")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("parallel"))
    chain.tuning()
    return chain


class Elsewhere:
    """A copy of the chain's store with everything but tunings, and a runtime of two processes over it."""

    def __init__(self, chain: Chain, folder: Path, parallel: str) -> None:
        shutil.copytree(chain.store.root, folder / "store", ignore=shutil.ignore_patterns("tune", "locks", "tmp"))
        self.store = Store(folder / "store")
        self.runtime = Runtime(
            store=str(self.store.root), run_id=str(folder), gpus_per_stage=2, parallel=parallel, cores_per_stage=2
        )

    def tuned(self, ref: Ref) -> dict[str, torch.Tensor]:
        return load_file(self.store.open(ref) / "tuned.safetensors")


def require_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Fail unless all values are equal to 1e-5; the bias of keys is the rounding of a gradient that is zero."""
    assert found.keys() == expected.keys() != set()
    for name, tensor in expected.items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)


def ranks_of(stage: int) -> list[psutil.Process]:
    """The processes that the stage's own process has had started, by the server that it keeps for that."""
    own = psutil.Process(stage)
    return [rank for server in own.children() for rank in server.children()]


@contextmanager
def running(place: Elsewhere, arguments: dict[str, Any], raised: list[CrashError]) -> Iterator[int]:
    """Number of the stage's own process, once its first checkpoint lies there; at the end it is waited for."""

    def work() -> None:
        try:
            tune.run(place.runtime, **arguments)
        except CrashError as error:
            raised.append(error)

    with sharing(place.runtime, RunContext(Resources(2))) as own:
        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 90
        while not list(place.store.root.glob("work/*/checkpoint.safetensors")):
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.002)
        [process] = own.children._running
        yield process.pid
        thread.join(60)
        assert not thread.is_alive()


def require_weights_of_one(chain: Chain, place: Elsewhere, two: Ref) -> None:
    """Fail unless two processes published what one does, and reported what each of them took."""
    one = chain.tune(**LONG)
    assert two.key == one.key, "how many compute is no part of a key"
    require_close(place.tuned(two), chain.tensors(one, "tuned"))
    assert (one.summary["num_processes"], two.summary["num_processes"]) == (1, 2)
    same = {"num_steps", "num_tokens", "num_rows", "num_parameters", "best_step"}
    assert {name: two.summary[name] for name in same} == {name: one.summary[name] for name in same}
    for folder, names in ((chain.open(one), ("memory_gib",)), (place.store.open(two), BOTH)):
        entries = read_metrics(folder / "metrics.jsonl")
        assert [entry["step"] for entry in entries if "loss" in entry] == list(range(1, LONG["num_steps"] + 1))
        for name in names:
            values = [entry[name] for entry in entries if name in entry]
            assert len(values) == LONG["num_steps"]
            assert all(0.05 < value < 20 for value in values)


@pytest.fixture(scope="module")
def undisturbed(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Elsewhere, Ref]:
    place = Elsewhere(chain, tmp_path_factory.mktemp("undisturbed"), "data")
    return place, tune.run(place.runtime, **chain.tuning(**LONG))


def test_two_processes_publish_the_weights_of_one(chain: Chain, undisturbed: tuple[Elsewhere, Ref]) -> None:
    place, ref = undisturbed
    require_weights_of_one(chain, place, ref)
    fewer = place.runtime.model_copy(update={"parallel": "layers", "gpus_per_stage": 1})
    assert tune.run(fewer, **chain.tuning(**LONG)) == ref, "what two computed is found by one"


@pytest.mark.slow_faults
def test_two_shares_publish_the_weights_of_one(chain: Chain, tmp_path: Path) -> None:
    place = Elsewhere(chain, tmp_path, "sharded")
    require_weights_of_one(chain, place, tune.run(place.runtime, **chain.tuning(**LONG)))


def test_a_killed_process_ends_the_stage_and_the_next_run_goes_on_to_the_same_bits(
    chain: Chain, undisturbed: tuple[Elsewhere, Ref], tmp_path: Path
) -> None:
    arguments = chain.tuning(**LONG)
    place, raised = Elsewhere(chain, tmp_path, "data"), list[CrashError]()
    with running(place, arguments, raised) as stage:
        first, second = sorted(ranks_of(stage), key=lambda rank: rank.pid)
        began = time.monotonic()
        os.kill(second.pid, signal.SIGKILL)
    assert time.monotonic() - began < 30
    [error] = raised
    assert type(error) is StageKilledError
    assert "process 2 of 2: its process was killed (signal 9)" in str(error)
    assert not first.is_running()
    assert not list(place.store.root.glob("artifacts/tune/*"))
    [written] = place.store.root.glob("work/*/metrics.jsonl")
    assert 10 <= max(entry["step"] for entry in read_metrics(written)) < LONG["num_steps"]
    ref = tune.run(place.runtime, **arguments)
    assert ref.digest == undisturbed[1].digest
    again = [entry["step"] for entry in read_metrics(place.store.open(ref) / "metrics.jsonl") if "loss" in entry]
    assert again == list(range(1, LONG["num_steps"] + 1))


@pytest.mark.slow_faults
def test_asked_to_stop_both_stop_after_one_step_and_one_goes_on(chain: Chain, tmp_path: Path) -> None:
    arguments = chain.tuning(**LONG)
    place, raised = Elsewhere(chain, tmp_path, "sharded"), list[CrashError]()
    with running(place, arguments, raised) as stage:
        os.kill(stage, signal.SIGTERM)
    [error] = raised
    assert type(error) is InterruptedRun
    assert error.exit_code == 143
    step = int(str(error).split("stopped after step ")[1].split()[0])
    [written] = place.store.root.glob("work/*/metrics.jsonl")
    assert {entry["step"] for entry in read_metrics(written) if "loss" in entry} == set(range(1, step + 1))
    alone = place.runtime.model_copy(update={"gpus_per_stage": 1, "parallel": "layers"})
    ref = tune.run(alone, **arguments)
    require_close(place.tuned(ref), chain.tensors(chain.tune(**LONG), "tuned"))


@pytest.mark.slow_faults
def test_divergence_is_one_clear_error(chain: Chain, tmp_path: Path) -> None:
    place = Elsewhere(chain, tmp_path, "data")
    arguments = chain.tuning(learning_rate=1e30, schedule="constant", checkpoint_steps=1)
    with pytest.raises(DivergedError, match=r"not finite .*of 6.*rate 1e\+30.*checkpoint of step 1 is untouched"):
        tune.run(place.runtime, **arguments)
    assert not list(place.store.root.glob("artifacts/tune/*"))


def test_a_lack_of_memory_is_recorded_beside_the_result(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F18 through the stage's own function: the loss runs out of memory once, in the fourth step."""
    plain, num_passes = LossModule.forward, iter(range(1, 1000))

    def forward(self: LossModule, batch: Any) -> Any:
        if next(num_passes) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, batch)

    monkeypatch.setattr(LossModule, "forward", forward)
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    work = Work(tmp_path / "out", tmp_path / "scratch", chain.store)
    arguments = chain.tuning(learning_rate=2e-5)
    summary = tune.compute(work, **arguments, model=None)
    assert summary["out_of_memory_step"] == 4
    assert 0 < summary["max_tokens"] < arguments["settings"].max_tokens
    assert len([record for record in caplog.records if "out of memory at step 4 of 6" in record.getMessage()]) == 1
    expected = chain.tensors(chain.tune(learning_rate=2e-5), "tuned")
    for name, tensor in load_file(tmp_path / "out" / "tuned.safetensors").items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=name)
