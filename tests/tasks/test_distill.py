"""Distill: it resumes to the same bits, writes an emulator like any other, and that emulator is a better model."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flows.demo.texts import write_texts
from tasks.cluster import cluster
from tasks.compress import compress
from tasks.core.compression.settings import Compression
from tasks.core.errors import DivergedError, InputError
from tasks.core.tuning.settings import Elevation, TrainSettings
from tasks.data.resolving_text import resolve_text
from tasks.distill import distill
from tasks.emulate import emulate
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.evaluate import evaluate
from tasks.models.resolving import resolve_model
from tasks.models.tensor_files import stored_tensors
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.store.metrics import read_metrics
from tasks.tune import tune
from tests.tasks.chain import DEMO, Chain
from tests.tasks.test_tune import disturb

SETTINGS = TrainSettings(learning_rate=1e-3, num_steps=6, batch_size=4, checkpoint_steps=2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_texts(folder, seed=5, num_train=60, num_validation=8)
    return folder


def arguments(chain: Chain, text: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "emulator": changes.pop("emulator", None) or chain.emulate(chain.plan),
        "teacher": changes.pop("teacher", chain.model),
        "text": resolve_text(str(text)),
        "block": changes.pop("block", 32),
        "hidden_weight": changes.pop("hidden_weight", 30.0),
        "precision": changes.pop("precision", "float32"),
        **({"elevation": changes.pop("elevation")} if "elevation" in changes else {}),
    }
    return given | {"settings": replace(SETTINGS, **changes)}


def distilled(chain: Chain, text: Path, **changes: Any) -> Ref:
    return distill.run(chain.runtime, **arguments(chain, text, **changes))


def test_what_it_writes_is_an_emulator_whose_frozen_blocks_moved(chain: Chain, text: Path) -> None:
    given, ref = chain.emulate(chain.plan), distilled(chain, text)
    plan, folder = chain.read_plan(chain.plan), chain.open(ref)
    assert {path.name for path in folder.iterdir()} - {"metrics.jsonl"} == {
        path.name for path in chain.open(given).iterdir()
    }
    before, after = chain.tensors(given, "model"), chain.tensors(ref, "model")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        parts = name.split(".")
        frozen = "layers" in parts and plan.kept[int(parts[3])] in plan.frozen
        assert torch.equal(tensor, before[name]) != frozen, name
        assert tensor.dtype == before[name].dtype
    assert ref.summary["num_bytes"] == given.summary["num_bytes"]
    assert ref.summary["num_parameters"] == sum(tensor.numel() for tensor in after.values())
    block = sum(parameter.numel() for parameter in chain.full.model.decoder.layers[0].parameters())
    assert ref.summary["num_trained"] == len(plan.frozen) * block
    entries = read_metrics(folder / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == list(range(1, 7))
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["lm_loss"] + 30 * entry["hidden_loss"], rel=1e-4)


def test_it_is_scored_tuned_and_plugged_in(chain: Chain, text: Path) -> None:
    emulator = distilled(chain, text)
    tuned = tune.run(chain.runtime, **chain.tuning() | {"emulator": emulator})
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=tuned)
    inputs = {"model": chain.model, "task": chain.task}
    for more in ({"emulator": emulator}, {"emulator": emulator, "tuned": tuned}, {"tuned": plugged}):
        assert evaluate.run(chain.runtime, **inputs, **more).summary["num_rows"] == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_one_goes_on_to_the_same_bits(chain: Chain, text: Path, tmp_path: Path, number: int) -> None:
    given = arguments(chain, text, num_steps=120, checkpoint_steps=10, eval_steps=40)
    expected = distill.run(chain.runtime, **given)
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("distill", "work"))
    elsewhere = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))
    disturb(elsewhere, given, number, stage=distill)
    [written] = (tmp_path / "store").glob("work/*/metrics.jsonl")
    before = read_metrics(written)
    assert 0 < len(before) < 120, "it was stopped on its way"
    ref = distill.run(elsewhere, **given)
    assert ref.digest == expected.digest
    entries = read_metrics(elsewhere.open_store().open(ref) / "metrics.jsonl")
    assert {entry["step"] for entry in entries} == set(range(1, 121))
    assert entries[:10] == before[:10], "it did not start again"


@pytest.mark.parametrize("parallel", ["data", "sharded"])
def test_two_processes_train_what_one_does(chain: Chain, text: Path, tmp_path: Path, parallel: str) -> None:
    given = arguments(chain, text, learning_rate=2e-5)
    expected = chain.tensors(distill.run(chain.runtime, **given), "model")
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("distill", "locks", "tmp"))
    store = str(tmp_path / "store")
    two = Runtime(store=store, run_id=store, gpus_per_stage=2, parallel=parallel, cores_per_stage=2)
    with sharing(two, RunContext(Resources(2))):
        ref = distill.run(two, **given)
    assert ref.summary["num_processes"] == 2
    found = load_file(two.open_store().open(ref) / "model.safetensors")
    for name, tensor in expected.items():
        # The bias of keys is the rounding of a gradient that is zero.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("how", [Compression("prune", ratio=0.5), Compression("low_rank", rank=4)])
def test_behind_compression(chain: Chain, text: Path, how: Compression) -> None:
    cheaper = compress.run(chain.runtime, emulator=chain.emulate(chain.plan), how=how)
    ref = distilled(chain, text, emulator=cheaper)
    before, after = chain.tensors(cheaper, "model"), chain.tensors(ref, "model")
    assert {name: tensor.shape for name, tensor in before.items()} == {name: t.shape for name, t in after.items()}
    frozen = [name for name in after if not torch.equal(after[name], before[name])]
    assert len(frozen) == 2 * (16 if how.method == "prune" else 22)
    if how.method == "prune":
        matrices = [name for name in frozen if after[name].dim() > 1]
        assert all(torch.equal(after[name] == 0, before[name] == 0) for name in matrices)
        assert json.loads((chain.open(ref) / "compression.json").read_text())["method"] == "prune"


def test_a_margin_and_random_prompts(chain: Chain, text: Path) -> None:
    """LLEOT: the result is an emulator like any other, and unused options are in no key."""
    plainly = distilled(chain, text)
    assert Elevation(4.0, prompt_std=9.0).cache_view() == Elevation(4.0).cache_view() != Elevation(4.0, 1).cache_view()
    raised = distilled(chain, text, elevation=Elevation(margin=4.0, prompt_tokens=3))
    assert raised.key != plainly.key
    assert distilled(chain, text, elevation=Elevation(margin=4.0, prompt_tokens=2)).key != raised.key
    before, after = chain.tensors(chain.emulate(chain.plan), "model"), chain.tensors(raised, "model")
    assert {name: tensor.shape for name, tensor in before.items()} == {name: t.shape for name, t in after.items()}
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())
    entries = read_metrics(chain.open(raised) / "metrics.jsonl")
    assert len(entries) == 6
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["margin_loss"] + 30 * entry["hidden_loss"], rel=1e-4)


def test_quantised_weights_are_not_trained(chain: Chain, text: Path) -> None:
    levels = compress.run(chain.runtime, emulator=chain.emulate(chain.plan), how=Compression("quantise", bits=4))
    with pytest.raises(InputError, match="training would take its weights off their levels"):
        distilled(chain, text, emulator=levels)


def test_a_plan_without_frozen_blocks_and_a_wild_rate_are_refused(chain: Chain, text: Path) -> None:
    with pytest.raises(InputError, match="none is left to be distilled"):
        distilled(chain, text, emulator=chain.emulate(chain.every))
    with pytest.raises(DivergedError, match=r"not finite.*Lower distill\.learning_rate"):
        distilled(chain, text, learning_rate=1e30, warmup_steps=0, schedule="constant")


def test_narrow_computing_and_windows_no_longer_than_the_model_takes(chain: Chain, text: Path) -> None:
    narrow = distilled(chain, text, precision="bfloat16", block=512)
    wide = distilled(chain, text, block=64)
    ours, theirs = chain.tensors(narrow, "model"), chain.tensors(wide, "model")
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32
        assert (tensor - theirs[name]).abs().max() <= 2 * 6 * 1e-3, name


def test_what_changes_the_result_and_what_does_not(chain: Chain, text: Path) -> None:
    first, count = distilled(chain, text), chain.num_computed
    assert distilled(chain, text, checkpoint_steps=5) == first
    assert chain.num_computed == count
    others = [
        distilled(chain, text, hidden_weight=1.0),
        distilled(chain, text, seed=2),
        distilled(chain, text, block=16),
    ]
    assert len({ref.digest for ref in [first, *others]}) == 4


def test_on_the_demo_the_distilled_emulator_is_the_better_model(tmp_path: Path) -> None:
    """Offsite-Tuning's plan for the shipped model, shortly distilled on the shipped text, scored on text held out."""
    runtime, text = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path)), resolve_text(str(DEMO / "text"))
    model = resolve_model(str(DEMO / "model"))
    plan = cluster.run(runtime, strategy="uniform", num_blocks=12, num_kept=6, num_tuned=4)
    plain = emulate.run(runtime, model=model, plan=plan)
    settings = replace(SETTINGS, learning_rate=3e-3, num_steps=40, batch_size=32, warmup_steps=5, checkpoint_steps=100)
    given = {"emulator": plain, "teacher": model, "text": text, "settings": settings}
    taught = distill.run(runtime, **given, block=64, hidden_weight=30.0, precision="float32")
    losses = [entry["loss"] for entry in read_metrics(runtime.open_store().open(taught) / "metrics.jsonl")]
    assert losses[-1] < 0.5 * losses[0]
    before, after = (
        evaluate.run(runtime, model=model, task=text, emulator=emulator).summary["value"]
        for emulator in (plain, taught)
    )
    assert after < 0.8 * before, "perplexity"
    stored = stored_tensors(runtime.open_store().open(taught)).values()
    assert {tensor.dtype for tensor in stored} == {"F16"}, "as the model is stored"
