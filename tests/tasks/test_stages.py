"""Each stage by itself, on the embedded model and task: what it publishes, and the laws that it must keep."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.capture import capture
from tasks.cluster import cluster
from tasks.core.blocks import tuned_state, with_layout
from tasks.core.capturing import capture_states
from tasks.core.cka import linear_cka
from tasks.core.clustering import adjacent_clusters
from tasks.core.errors import DivergedError, InputError, InterruptedRun
from tasks.core.plan import Plan, crash_plan, fixed_plan
from tasks.core.train_settings import TrainSettings
from tasks.emulate import emulate
from tasks.plug_in import plug_in
from tasks.similarity import similarity
from tasks.store.artifacts import Ref, Store
from tasks.store.examples import load_examples
from tasks.store.keys import stage_key
from tasks.store.models import ModelSource, load_model, load_tokenizer, resolve_model
from tasks.store.resources import Resources
from tasks.store.stage import Runtime, Shared, sharing
from tasks.store.task_sources import TaskSource, resolve_task
from tasks.tune import tune

DEMO = Path(__file__).resolve().parents[2] / "flows" / "demo"
SUPPORT = {
    "num_rows": 24,
    "split": "train",
    "part": "prompt+answer",
    "pooling": "mean_weighted",
    "final_norm": False,
    "max_tokens": 1024,
    "precision": "float32",
}
SETTINGS = TrainSettings(learning_rate=5e-4, num_steps=60, batch_size=8, checkpoint_steps=5)
IDS = torch.arange(4, 24).unsqueeze(0)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """One store for all tests of this file: a stage that one needs is found by the next."""
    folder = tmp_path_factory.mktemp("stages")
    return Runtime(store=str(folder / "store"), run_id=str(folder))


@pytest.fixture(scope="module")
def model() -> ModelSource:
    return resolve_model(str(DEMO / "model"))


@pytest.fixture(scope="module")
def task() -> TaskSource:
    return resolve_task({"name": "people", "data": str(DEMO / "task"), "num_train": 40, "num_test": 8})


@pytest.fixture(scope="module")
def states(runtime: Runtime, model: ModelSource, task: TaskSource) -> Ref:
    return capture.run(runtime, model=model, task=task, **SUPPORT)


@pytest.fixture(scope="module")
def plan(runtime: Runtime, states: Ref) -> Ref:
    similar = similarity.run(runtime, states=states, estimator="linear_cka")
    return cluster.run(runtime, **crash_arguments(similar))


@pytest.fixture(scope="module")
def emulator(runtime: Runtime, model: ModelSource, plan: Ref) -> Ref:
    return emulate.run(runtime, model=model, plan=plan)


def crash_arguments(similar: Ref) -> dict:
    return {
        "strategy": "crash",
        "num_blocks": 12,
        "similarity": similar,
        "estimator": "linear_cka",
        "num_kept": 6,
        "num_tuned": 4,
        "linkage": "boundary",
        "share": "frozen_only",
        "keep_ends": False,
    }


def opened(runtime: Runtime, ref: Ref) -> Path:
    return Store(Path(runtime.store)).open(ref)


def read_plan(runtime: Runtime, ref: Ref) -> Plan:
    return Plan.from_json((opened(runtime, ref) / "plan.json").read_text())


def test_capture_is_what_a_plain_call_captures(
    runtime: Runtime, model: ModelSource, task: TaskSource, states: Ref
) -> None:
    tokenizer = load_tokenizer(model)
    rows = load_examples(task, "train", tokenizer, model.context, limit=24).rows
    expected = capture_states(load_model(model, "float32"), rows[:24], max_tokens=1024, pad_id=tokenizer.pad_token_id)
    found = load_file(opened(runtime, states) / "states.safetensors")
    assert found["states"].shape == (13, 24, 128)
    torch.testing.assert_close(found["states"], expected.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["block_influence"], expected.block_influence, atol=1e-5, rtol=1e-4)
    assert states.summary["num_truncated"] == 0


def test_capture_names_the_block_whose_weights_are_broken(
    runtime: Runtime, model: ModelSource, task: TaskSource, tmp_path: Path
) -> None:
    shutil.copytree(model.path, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    name = next(name for name in weights if ".layers.7." in name and name.endswith("fc1.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="output of block 7 holds NaN"):
        capture.run(runtime, model=resolve_model(str(tmp_path / "broken")), task=task, **SUPPORT)


def test_similarity_and_plan_follow_from_the_states(runtime: Runtime, states: Ref, plan: Ref) -> None:
    matrix = linear_cka(load_file(opened(runtime, states) / "states.safetensors")["states"])
    clusters = adjacent_clusters(matrix[1:, 1:], 6)
    assert json.loads((opened(runtime, plan) / "clusters.json").read_text())["clusters"] == clusters
    assert read_plan(runtime, plan) == crash_plan(clusters, 4, share="frozen_only")


def test_similarity_refuses_states_that_are_all_alike(runtime: Runtime, tmp_path: Path) -> None:
    store = Store(Path(runtime.store))
    key, inputs = capture.key(model=resolve_model(str(DEMO / "model")), task=None, **SUPPORT | {"num_rows": 99})
    with store.publishing("capture", key) as out:
        values = torch.randn(4, 8, 16)
        values[2] = 1.5
        tensors = {"states": values, "last": values.clone(), "block_influence": torch.zeros(3)}
        save_file(tensors, out / "states.safetensors")
        constant = store.publish("capture", key, out, inputs)
    with pytest.raises(InputError, match="block 1 is the same for every row"):
        similarity.run(runtime, states=constant.ref, estimator="linear_cka")


def test_the_emulator_is_a_plain_hugging_face_folder(runtime: Runtime, model: ModelSource, emulator: Ref) -> None:
    from transformers import AutoModelForCausalLM

    folder = opened(runtime, emulator)
    how = Plan.from_json((folder / "plan.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert plain.config.num_hidden_layers == 6
    alone = replace_share(how)
    with torch.no_grad():
        expected = with_layout(load_model(model, "float32"), alone)(IDS).logits
        torch.testing.assert_close(plain(IDS).logits, expected)
    assert emulator.summary["depth"] == 12


def replace_share(how: Plan) -> Plan:
    """The same blocks without stand-ins."""
    return fixed_plan(how.num_blocks, how.kept, how.tuned)


def tuning(task: TaskSource, plan: Ref, emulator: Ref, **changes: float) -> dict:
    settings = replace(SETTINGS, **changes)
    return {"task": task, "plan": plan, "emulator": emulator, "settings": settings, "precision": "float32"}


def test_tuning_that_was_stopped_goes_on_to_the_same_digest(
    runtime: Runtime, task: TaskSource, plan: Ref, emulator: Ref, tmp_path: Path
) -> None:
    whole = tune.run(runtime, **tuning(task, plan, emulator))
    other = Runtime(store=str(tmp_path / "store"), run_id="stopped")
    shutil.copytree(runtime.store, other.store)
    shutil.rmtree(tmp_path / "store" / "artifacts" / "tune")
    raised: list[Exception] = []

    def work() -> None:
        try:
            tune.run(other, **tuning(task, plan, emulator))
        except InterruptedRun as error:
            raised.append(error)

    with sharing(other, Shared(Resources(2))) as own:
        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "store").glob("work/*/checkpoint.safetensors")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        own.children.stop()
        thread.join()
    assert len(raised) == 1, "the tuning ended before it could be stopped"
    resumed = tune.run(Runtime(store=other.store, run_id="resumed"), **tuning(task, plan, emulator))
    assert resumed.digest == whole.digest
    lines = (Store(Path(other.store)).open(resumed) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61)), "every step once, in order"


def test_only_tuned_blocks_are_returned(runtime: Runtime, task: TaskSource, plan: Ref, emulator: Ref) -> None:
    ref = tune.run(runtime, **tuning(task, plan, emulator))
    blocks = {int(name.partition(".")[0]) for name in load_file(opened(runtime, ref) / "tuned.safetensors")}
    assert blocks == set(read_plan(runtime, plan).tuned)
    assert {path.name for path in opened(runtime, ref).iterdir()} == {
        "tuned.safetensors",
        "plan.json",
        "metrics.jsonl",
        "manifest.json",
    }


def test_divergence_publishes_nothing(runtime: Runtime, task: TaskSource, plan: Ref, emulator: Ref) -> None:
    before = set(Path(runtime.store).glob("artifacts/tune/*"))
    with pytest.raises(DivergedError, match=r"not finite at step \d+ of 60, learning rate"):
        tune.run(runtime, **tuning(task, plan, emulator, learning_rate=1e30))
    assert set(Path(runtime.store).glob("artifacts/tune/*")) == before


def test_plugging_in_untouched_blocks_gives_the_full_model_back(
    runtime: Runtime, model: ModelSource, plan: Ref, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    full, how = load_model(model, "stored"), read_plan(runtime, plan)
    untouched = {name: tensor.clone() for name, tensor in tuned_state(with_layout(full, how), how).items()}
    ref = plug_in.run(runtime, model=model, plan=plan, tuned=returned(runtime, plan, untouched), export=True)
    assert all(ref.summary[f"moved_block_{index}"] == 0.0 for index in how.tuned)
    plain = AutoModelForCausalLM.from_pretrained(opened(runtime, ref) / "model").eval()
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, full.eval()(IDS).logits)


def test_blocks_that_do_not_fit_are_refused(runtime: Runtime, model: ModelSource, plan: Ref) -> None:
    full, how = load_model(model, "stored"), read_plan(runtime, plan)
    state = {name: tensor.clone() for name, tensor in tuned_state(with_layout(full, how), how).items()}
    name = sorted(state)[0]
    state[name] = state[name] * float("nan")
    with pytest.raises(InputError, match=f"{name}: values are not finite"):
        plug_in.run(runtime, model=model, plan=plan, tuned=returned(runtime, plan, state))


def returned(runtime: Runtime, plan: Ref, state: dict[str, torch.Tensor]) -> Ref:
    """Tuned blocks as if a tuning had published them."""
    store = Store(Path(runtime.store))
    key, inputs = key_of(state)
    with store.publishing("tune", key) as out:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "tuned.safetensors")
        shutil.copyfile(opened(runtime, plan) / "plan.json", out / "plan.json")
        return store.publish("tune", key, out, inputs).ref


def key_of(state: dict[str, torch.Tensor]) -> tuple[str, dict]:
    finite = all(bool(tensor.isfinite().all()) for tensor in state.values())
    return stage_key("tune", "tasks.tune", {"hand_made": True, "finite": finite}, ())
