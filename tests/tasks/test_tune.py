"""Tune: killed or stopped anywhere it ends with the same digest, and what diverges is not published (F17, F19, F20)."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import CrashError, DivergedError, InterruptedRun, StageKilledError
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.engine.stage import Stage
from tasks.store.artifacts import Ref, Store
from tasks.store.metrics import read_metrics
from tasks.tune import _warn_of_guessing, tune
from tests.store.objects import Objects
from tests.tasks.chain import NUM_ROWS, SETTINGS, Chain, people

# Long enough to be hit in the middle: about two seconds.
LONG: dict[str, Any] = {"num_steps": 300, "checkpoint_steps": 5, "eval_steps": 20}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def undisturbed(chain: Chain) -> Ref:
    return chain.tune(**LONG)


@pytest.fixture
def elsewhere(chain: Chain, undisturbed: Ref, tmp_path: Path) -> Runtime:
    """A store with everything but the tuning."""
    shutil.copytree(chain.store.root, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "artifacts" / "tune")
    return Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))


def steps_of(chain: Chain, ref: Ref, name: str) -> dict[int, float]:
    """A metric of every step."""
    lines = (chain.open(ref) / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry[name] for entry in map(json.loads, lines) if name in entry}


def disturb(
    elsewhere: Runtime,
    arguments: dict[str, Any],
    number: int,
    begun: Callable[[], bool] | None = None,
    stage: Stage = tune,
) -> CrashError:
    """Run the training until its first checkpoint lies there, send its process a signal, return what it raises."""
    begun = begun or (lambda: any(Path(elsewhere.store).glob("work/*/checkpoint.safetensors")))
    raised: list[CrashError] = []

    def work() -> None:
        try:
            stage.run(elsewhere, **arguments)
        except CrashError as error:
            raised.append(error)

    with sharing(elsewhere, RunContext(Resources(2))) as own:
        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 60
        while not begun():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        [process] = own.children._running
        os.kill(process.pid, number)
        thread.join(60)
    assert len(raised) == 1, "the training ended before it could be disturbed"
    assert not list(Path(elsewhere.store).glob(f"artifacts/{stage.name}/*"))
    return raised[0]


def before_and_after(elsewhere: Runtime, arguments: dict[str, Any]) -> tuple[list[dict], list[dict], Ref]:
    """Metrics that were written until the disturbance, those that are published after a rerun, and the artifact."""
    [written] = Path(elsewhere.store).glob("work/*/metrics.jsonl")
    before = list(read_metrics(written))
    ref = tune.run(elsewhere, **arguments)
    after = list(read_metrics(Store(Path(elsewhere.store)).open(ref) / "metrics.jsonl"))
    assert not list(Path(elsewhere.store).glob("work/*")), "what a finished tuning needs no more is removed"
    return before, after, ref


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGKILL, StageKilledError), (signal.SIGTERM, InterruptedRun), (signal.SIGINT, InterruptedRun)],
)
def test_disturbed_in_the_middle_it_goes_on_to_the_same_digest(
    chain: Chain, undisturbed: Ref, elsewhere: Runtime, number: int, kind: type[CrashError]
) -> None:
    error = disturb(elsewhere, chain.tuning(**LONG), number)
    assert type(error) is kind, error
    if kind is InterruptedRun:
        assert error.exit_code == 128 + number
        assert re.match(r"stopped after step \d+ of 300; run again to continue", str(error)), (
            "it ended between two steps"
        )
    before, after, ref = before_and_after(elsewhere, chain.tuning(**LONG))
    assert ref.digest == undisturbed.digest
    steps = [entry["step"] for entry in after]
    assert steps == list(range(1, LONG["num_steps"] + 1)), "every step once, in order"
    # Steps before the checkpoint were not done again: their lines are those of the first process.
    assert after[: LONG["checkpoint_steps"]] == before[: LONG["checkpoint_steps"]]
    again = {entry["step"]: entry for entry in before}
    repeated = [entry for entry in after if entry["step"] in again and entry != again[entry["step"]]]
    # A signal that is heard leaves a checkpoint of the step it came in.
    most = 0 if kind is InterruptedRun else LONG["checkpoint_steps"]
    assert len(repeated) <= most, "no more is lost than lies between two checkpoints"
    for name in ("loss", "validation_loss", "gradient_norm"):
        values = {entry["step"]: entry[name] for entry in after if name in entry}
        assert values == steps_of(chain, undisturbed, name), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_machine_lost_it_goes_on_at_another_one(
    chain: Chain, undisturbed: Ref, elsewhere: Runtime, objects: Objects, number: int
) -> None:
    lost = Runtime(store=elsewhere.store, store_url=objects.url, run_id="lost")
    other = Runtime(store=f"{elsewhere.store}-other", store_url=objects.url, run_id="other")
    shutil.copytree(lost.store, other.store)
    disturb(lost, chain.tuning(**LONG), number, lambda: len(objects.names("work")) == 2)
    [written] = Path(lost.store).glob("work/*/metrics.jsonl")
    before = {entry["step"]: entry for entry in read_metrics(written)}
    shutil.rmtree(lost.store)
    ref = tune.run(other, **chain.tuning(**LONG))
    assert ref.digest == undisturbed.digest
    after = list(read_metrics(other.open_store().open(ref) / "metrics.jsonl"))
    assert [entry["step"] for entry in after] == list(range(1, LONG["num_steps"] + 1)), "every step once, in order"
    repeated = [entry for entry in after if entry != before.get(entry["step"], entry)]
    # A kill may come while a checkpoint is being sent; a signal that is heard is answered when it has arrived.
    most = 0 if number == signal.SIGTERM else len(before) - LONG["checkpoint_steps"]
    assert len(repeated) <= most
    assert objects.names("work") == []


def test_a_checkpoint_that_was_damaged_costs_time_and_nothing_else(
    chain: Chain, undisturbed: Ref, elsewhere: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    disturb(elsewhere, chain.tuning(**LONG), signal.SIGKILL)
    [checkpoint] = Path(elsewhere.store).glob("work/*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    before, after, ref = before_and_after(elsewhere, chain.tuning(**LONG))
    assert ref.digest == undisturbed.digest
    assert caplog.text.count("is damaged") == 1
    assert after[0]["time"] > before[0]["time"], "started again"


def test_divergence_of_the_full_model_names_its_own_learning_rate(chain: Chain) -> None:
    arguments = chain.tuning(learning_rate=1e30, schedule="constant") | {"plan": chain.every, "emulator": None}
    with pytest.raises(DivergedError, match=r"Lower full_tune\.learning_rate"):
        tune.run(chain.runtime, **arguments, model=chain.model)


@pytest.mark.parametrize("eval_steps", [None, 1])
def test_divergence_publishes_nothing_and_keeps_the_last_checkpoint(chain: Chain, eval_steps: int | None) -> None:
    arguments = chain.tuning(learning_rate=1e30, schedule="constant", checkpoint_steps=1, eval_steps=eval_steps)
    count = chain.num_artifacts("tune")
    with pytest.raises(DivergedError, match=r"not finite .*of 6.*rate 1e\+30.*Lower tune.learning_rate") as info:
        tune.run(chain.runtime, **arguments)
    assert info.value.exit_code == 5
    assert chain.num_artifacts("tune") == count
    assert not list(chain.store.root.glob("tmp/*"))
    key, _ = tune.key(**arguments)
    kept = list(chain.store.root.glob(f"work/{key}/checkpoint.safetensors"))
    assert len(kept) == (eval_steps is None), "a step whose validation failed is not saved"
    if kept:
        assert "checkpoint of step 1 is untouched" in str(info.value)


def test_the_best_state_by_validation_is_published(chain: Chain) -> None:
    settings = {"learning_rate": 0.02, "schedule": "constant", "num_steps": 12, "batch_size": 12}
    ref = chain.tune(**settings, eval_steps=1)
    losses = steps_of(chain, ref, "validation_loss")
    assert len(losses) == 12
    best = min(losses, key=losses.__getitem__)
    assert best < 12, "the case must have its best state before the end"
    assert (ref.summary["best_step"], ref.summary["best_validation_loss"]) == (best, losses[best])
    # A tuning of just so many steps ends in the same state.
    early = chain.tune(**settings | {"num_steps": best})
    found, expected = chain.tensors(ref, "tuned"), chain.tensors(early, "tuned")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_whole_model_is_tuned_as_the_emulator_that_keeps_everything(chain: Chain) -> None:
    arguments = chain.tuning() | {"plan": chain.every, "emulator": None}
    whole = tune.run(chain.runtime, **arguments, model=chain.model)
    kept = tune.run(chain.runtime, **arguments | {"emulator": chain.emulate(chain.every)})
    assert whole.key != kept.key
    found, expected = chain.tensors(whole, "tuned"), chain.tensors(kept, "tuned")
    assert {name.partition(".")[0] for name in found} == set("012345")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_it_learns_and_says_what_it_did(chain: Chain) -> None:
    ref = chain.tune(learning_rate=1e-2, num_steps=None, num_epochs=5)
    losses = list(steps_of(chain, ref, "loss").values())
    assert losses[-1] < losses[0] - 1
    tuned = chain.read_plan(chain.plan).tuned
    block = sum(tensor.numel() for tensor in chain.full.model.decoder.layers[0].parameters())
    expected = {"num_steps": 15, "best_step": 15, "num_rows": NUM_ROWS, "num_truncated": 0, "num_threads": 1}
    assert expected.items() <= ref.summary.items()
    assert ref.summary["num_parameters"] == len(tuned) * block
    assert ref.summary["final_loss"] == losses[-1]
    assert 0.05 < ref.summary["peak_memory_gib"] < 8


def test_a_first_loss_above_that_of_guessing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_guessing(10.79, 49152)
    assert not caplog.text
    _warn_of_guessing(11.51, 49152)
    assert "11.51 nats a token is more than that of guessing, ln 49152 = 10.80" in caplog.text


def test_narrow_computing_returns_wide_blocks(chain: Chain) -> None:
    ref = chain.tune(precision="bfloat16")
    state, wide = chain.tensors(ref, "tuned"), chain.tensors(chain.tune(), "tuned")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    # Started from the stored values, not from rounded ones: each of so few steps moves a value by at most its rate.
    for name, tensor in state.items():
        assert (tensor - wide[name]).abs().max() <= 2 * ref.summary["num_steps"] * SETTINGS.learning_rate, name


def test_what_changes_the_result_and_what_does_not(chain: Chain) -> None:
    first, count = chain.tune(), chain.num_computed
    assert chain.tune(checkpoint_steps=1) == first
    more = Runtime(store=chain.runtime.store, run_id=chain.runtime.run_id, show_progress=True)
    assert tune.run(more, "another label", **chain.tuning()) == first
    assert chain.num_computed == count
    others = [chain.tune(learning_rate=2e-3), chain.tune(seed=1), chain.tune(batch_size=5)]
    fewer = tune.run(chain.runtime, **chain.tuning() | {"task": people(num_train=8)})
    assert len({ref.digest for ref in [first, *others, fewer]}) == 5
    assert chain.num_computed == count + 4
