"""Harmonizers: networks and scores of the stage, the plan that is made from them, and the emulator that has them."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts.harmonizers import read_block_scores, read_harmonizers
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import DivergedError, InputError
from tasks.core.harmonizers.settings import Harmonizing
from tasks.data.resolving_text import resolve_text
from tasks.distill import distill
from tasks.emulate import emulate
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.evaluate import evaluate
from tasks.harmonizers import harmonizers
from tasks.models.emulators.emulator import load_emulator
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.store.metrics import read_metrics
from tasks.tune import tune
from tests.tasks.chain import NUM_BLOCKS, WIDTH, Chain, logits, plain
from tests.tasks.test_compress_by_gradient import compressed
from tests.tasks.test_distill import SETTINGS, text
from tests.tasks.test_tune import disturb

__all__ = ["text"]
HOW = Harmonizing(
    **{"num_steps": 6, "warmup_steps": 1, "batch_size": 4, "rank": 3, "checkpoint_steps": 2},
    **{"learning_rate": 1e-2, "score_steps": 2, "score_rows": 3},
)
SCALEOT: dict[str, Any] = {"strategy": "scaleot", "num_blocks": NUM_BLOCKS, "num_kept": 4, "num_tuned": 2}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("harmonizers"))


def arguments(chain: Chain, text: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"model": chain.model, "text": resolve_text(str(text)), "block": 32}
    given |= {"protected": (), "precision": "float32"}
    given |= {name: changes.pop(name) for name in given.keys() & changes.keys()}
    return given | {"how": replace(HOW, **changes)}


def trained(chain: Chain, text: Path, **changes: Any) -> Ref:
    return harmonizers.run(chain.runtime, **arguments(chain, text, **changes))


def planned(chain: Chain, found: Ref, **changes: Any) -> Ref:
    return chain.cluster(**SCALEOT | {"share": "harmonizers", "harmonizers": found} | changes)


def test_what_it_writes(chain: Chain, text: Path) -> None:
    ref = trained(chain, text)
    networks, scores = read_harmonizers(chain.open(ref)), read_block_scores(chain.open(ref))
    assert sorted(networks) == list(range(NUM_BLOCKS))
    for each in networks.values():
        assert (each.down.shape, each.up.shape) == ((3, WIDTH), (WIDTH, 3))
        assert each.up.abs().sum() > 0
    assert ref.summary["scores"] == pytest.approx(scores, abs=1e-4)
    assert any(scores)
    assert (ref.summary["num_harmonizers"], ref.summary["num_steps"]) == (NUM_BLOCKS, 6)
    assert ref.summary["num_parameters"] == NUM_BLOCKS * 2 * 3 * WIDTH
    entries = read_metrics(chain.open(ref) / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == list(range(1, 7))
    assert [entry["step"] for entry in entries if "validation_loss" in entry] == [2, 4, 6]
    assert all("spread_of_scores" in entry for entry in entries if "validation_loss" in entry)


def test_the_blocks_with_the_highest_scores_are_kept(chain: Chain, text: Path) -> None:
    found = trained(chain, text)
    scores = read_block_scores(chain.open(found))
    plan = chain.read_plan(planned(chain, found))
    assert set(plan.kept) == set(sorted(range(NUM_BLOCKS), key=lambda block: -scores[block])[:4])
    assert (plan.share, len(plan.layout)) == ("harmonizers", 4)


def test_the_emulator_runs_them_and_what_is_plugged_in_is_an_update(chain: Chain, text: Path) -> None:
    found = trained(chain, text)
    plan = planned(chain, found)
    how, given = chain.read_plan(plan), {"model": chain.model, "plan": plan}
    emulator = emulate.run(chain.runtime, **given, harmonizers=found)
    short = emulate.run(chain.runtime, **given)
    assert emulator.summary["num_harmonizers"] == 2
    assert emulator.summary["num_parameters"] - short.summary["num_parameters"] == 2 * 2 * 3 * WIDTH
    # The header has four more entries; the tensors are counted exactly.
    assert emulator.summary["num_bytes"] - short.summary["num_bytes"] == pytest.approx(4 * 2 * 2 * 3 * WIDTH, abs=500)
    assert torch.equal(logits(plain(chain.open(emulator))), logits(plain(chain.open(short))))
    assert not torch.allclose(logits(load_emulator(chain.open(emulator))), logits(plain(chain.open(short))), atol=1e-4)
    tuned = tune.run(chain.runtime, **chain.tuning() | {"plan": plan, "emulator": emulator})
    before, after = chain.full.state_dict(), chain.tensors(tuned, "tuned")
    block = dict(get_blocks(chain.full)[0].named_parameters())
    assert after.keys() == {f"{index}.{name}" for index in how.tuned for name in block}
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=plan, tuned=tuned, export=True)
    exported = chain.tensors(plugged, "model/model")
    changed = {name.split(".")[3] for name, tensor in exported.items() if not torch.equal(tensor, before[name])}
    assert changed == {str(index) for index in how.tuned}
    inputs = {"model": chain.model, "task": chain.task}
    for more in ({"emulator": emulator}, {"emulator": emulator, "tuned": tuned}, {"tuned": plugged}):
        assert evaluate.run(chain.runtime, **inputs, **more).summary["num_rows"] == 6


@pytest.mark.parametrize("parallel", ["data", "sharded"])
def test_two_processes_tune_with_them_as_one_does(chain: Chain, text: Path, tmp_path: Path, parallel: str) -> None:
    found = trained(chain, text)
    plan = planned(chain, found)
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, harmonizers=found)
    given = chain.tuning(learning_rate=2e-5) | {"plan": plan, "emulator": emulator}
    expected = chain.tensors(tune.run(chain.runtime, **given), "tuned")
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("tune", "locks", "tmp"))
    store = str(tmp_path / "store")
    two = Runtime(store=store, run_id=store, gpus_per_stage=2, parallel=parallel, cores_per_stage=2)
    with sharing(two, RunContext(Resources(2))):
        ref = tune.run(two, **given)
    assert ref.summary["num_processes"] == 2
    for name, tensor in load_file(two.open_store().open(ref) / "tuned.safetensors").items():
        # The bias of keys is the rounding of a gradient that is zero.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0, msg=name)


def test_gradot_looks_through_them(chain: Chain, text: Path) -> None:
    found = trained(chain, text)
    plan = planned(chain, found)
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, harmonizers=found)
    cheaper = compressed(chain, emulator=emulator)
    before, after = chain.tensors(emulator, "model"), chain.tensors(cheaper, "model")
    names = {name for name in before if name.startswith("harmonizer_")}
    assert len(names) == 4
    assert all(torch.equal(after[name], before[name]) for name in names)
    assert logits(load_emulator(chain.open(cheaper))).isfinite().all()


def test_a_share_of_the_removed_blocks_and_other_plans(chain: Chain, text: Path) -> None:
    found = trained(chain, text)
    plan = chain.cluster(strategy="uniform", num_blocks=NUM_BLOCKS, num_kept=2, num_tuned=2, share="harmonizers")
    given = {"model": chain.model, "plan": plan, "harmonizers": found}
    half = emulate.run(chain.runtime, **given, harmonized=0.5)
    scores = read_block_scores(chain.open(found))
    best = sorted(range(1, 5), key=lambda block: -scores[block])[:2]
    names = {name for name in chain.tensors(half, "model") if name.startswith("harmonizer_")}
    assert names == {f"harmonizer_{block}.{part}" for block in best for part in ("down", "up")}
    every = emulate.run(chain.runtime, model=chain.model, plan=chain.every, harmonizers=found)
    assert every.summary["num_harmonizers"] == 0
    protected = trained(chain, text, protected=(0, 1, 4, 5))
    assert sorted(read_harmonizers(chain.open(protected))) == [2, 3]
    with pytest.raises(InputError, match="no harmonizer was trained for the removed block 1: train them for this plan"):
        emulate.run(chain.runtime, **given | {"harmonizers": protected})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_one_goes_on_to_the_same_bits(chain: Chain, text: Path, tmp_path: Path, number: int) -> None:
    given = arguments(chain, text, num_steps=120, checkpoint_steps=10)
    expected = harmonizers.run(chain.runtime, **given)
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("harmonizers", "work"))
    elsewhere = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))
    disturb(elsewhere, given, number, stage=harmonizers)
    [metrics] = (tmp_path / "store").glob("work/*/metrics.jsonl")
    before = read_metrics(metrics)
    assert 0 < len(before) < 120, "it was stopped on its way"
    ref = harmonizers.run(elsewhere, **given)
    assert ref.digest == expected.digest
    entries = read_metrics(elsewhere.open_store().open(ref) / "metrics.jsonl")
    assert {entry["step"] for entry in entries} == set(range(1, 121))
    assert entries[:10] == before[:10], "it did not start again"


def test_in_16_bits_they_are_stored_as_the_blocks_are(tmp_path: Path, text: Path) -> None:
    chain = Chain(tmp_path, dtype=torch.bfloat16)
    found = trained(chain, text, precision="bfloat16")
    plan = planned(chain, found)
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, harmonizers=found)
    assert {tensor.dtype for tensor in load_file(chain.open(emulator) / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert {tensor.dtype for tensor in chain.tensors(found, "harmonizers").values()} == {torch.float32, torch.int64}


def test_what_changes_the_result_and_what_does_not(chain: Chain, text: Path) -> None:
    first, count = trained(chain, text), chain.num_computed
    assert trained(chain, text, checkpoint_steps=5, share=0.5) == first
    assert chain.num_computed == count
    others = [trained(chain, text, seed=2), trained(chain, text, rank=2), trained(chain, text, score_rows=2)]
    assert len({ref.digest for ref in [first, *others]}) == 4


def test_what_is_refused(chain: Chain, text: Path) -> None:
    with pytest.raises(InputError, match="1 of 6 blocks may be replaced, since the others are tuned"):
        trained(chain, text, protected=(0, 1, 2, 3, 4))
    with pytest.raises(DivergedError, match=r"not finite.*Lower harmonizers\.learning_rate"):
        trained(chain, text, learning_rate=1e30, warmup_steps=0)
    found = trained(chain, text)
    plan = planned(chain, found)
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, harmonizers=found)
    given: dict[str, Any] = {"teacher": chain.model, "text": resolve_text(str(text)), "settings": SETTINGS}
    with pytest.raises(InputError, match="harmonizers stand in for removed blocks already; choose one of both"):
        distill.run(chain.runtime, emulator=emulator, **given, block=32, hidden_weight=1.0, precision="float32")
