"""Compress: what it writes is an emulator like any other, which is scored, tuned and plugged in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.compress import compress
from tasks.core.compression.settings import Compression
from tasks.core.errors import InputError
from tasks.emulate import emulate
from tasks.evaluate import evaluate
from tasks.models.emulators.emulator import load_emulator
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.tune import tune
from tests.tasks.chain import Chain, write_model

METHODS = {
    "prune": Compression("prune", ratio=0.5),
    "quantise": Compression("quantise", bits=4),
    "low_rank": Compression("low_rank", rank=4),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("compress"))


def compressed(chain: Chain, how: Compression, **changes: Any) -> Ref:
    return compress.run(chain.runtime, **{"emulator": chain.emulate(chain.plan)} | changes, how=how)


@pytest.mark.parametrize("method", METHODS)
def test_every_result_is_scored_tuned_and_plugged_in(chain: Chain, method: str) -> None:
    emulator = compressed(chain, METHODS[method])
    inputs = {"model": chain.model, "task": chain.task}
    before = evaluate.run(chain.runtime, **inputs, emulator=emulator)
    tuned = tune.run(chain.runtime, **chain.tuning() | {"emulator": emulator})
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=tuned)
    after = evaluate.run(chain.runtime, **inputs, emulator=emulator, tuned=tuned)
    served = evaluate.run(chain.runtime, **inputs, tuned=plugged)
    assert {ref.summary["num_rows"] for ref in (before, after, served)} == {6}
    # The tuning ran inside this emulator and in no other.
    other = chain.tensors(tune.run(chain.runtime, **chain.tuning()), "tuned")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in chain.tensors(tuned, "tuned").items())


def test_pruning_leaves_exactly_the_zeros_that_were_asked_for(chain: Chain) -> None:
    plan, ref = chain.read_plan(chain.plan), compressed(chain, METHODS["prune"])
    before, after = (chain.tensors(folder, "model") for folder in (chain.emulate(chain.plan), ref))
    total = 0
    for name, tensor in after.items():
        parts = name.split(".")
        block = plan.kept[int(parts[3])] if "layers" in parts else None
        if block in plan.frozen and tensor.dim() > 1:
            assert int((tensor == 0).sum()) == tensor.numel() // 2
            total += tensor.numel() // 2
        else:
            assert torch.equal(tensor, before[name])
    assert total == ref.summary["num_zeros"]


def test_what_is_in_the_folder_and_the_summary(chain: Chain) -> None:
    ref = compressed(chain, METHODS["low_rank"])
    folder, given = chain.open(ref), chain.emulate(chain.plan)
    written = {path.name for path in folder.iterdir()} - {"compression.json"}
    assert written == {path.name for path in chain.open(given).iterdir()}
    assert (folder / "plan.json").read_bytes() == (chain.open(given) / "plan.json").read_bytes()
    told = {"method": "low_rank", "rank": 4, "rank_choice": "topk"}
    assert json.loads((folder / "compression.json").read_text()) == told
    tensors = load_file(folder / "model.safetensors")
    assert ref.summary["num_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert ref.summary["num_bytes"] < given.summary["num_bytes"]
    # Six linear modules in each of two frozen blocks.
    assert ref.summary["num_factored"] == ref.summary["num_compressed"] == 12
    assert 0 < ref.summary["mean_relative_error"] < 1


def test_what_the_method_does_not_use_is_no_reason_to_compute_again(chain: Chain) -> None:
    first, count = compressed(chain, METHODS["prune"]), chain.num_computed
    assert compressed(chain, Compression("prune", ratio=0.5, bits=3, seed=7)) == first
    assert chain.num_computed == count
    assert compressed(chain, Compression("prune", ratio=0.25)).key != first.key


def test_an_impossible_rank_publishes_nothing(chain: Chain) -> None:
    count = chain.num_artifacts("compress")
    with pytest.raises(InputError, match="no weight of a block has a rank above 32"):
        compressed(chain, Compression("low_rank", rank=500))
    assert chain.num_artifacts("compress") == count


def test_weights_in_shards(chain: Chain, tmp_path: Path) -> None:
    _, source = write_model(tmp_path / "model", shard="40KB")
    emulator = emulate.run(chain.runtime, model=source, plan=chain.plan)
    whole = compressed(chain, METHODS["low_rank"])
    ref = compressed(chain, METHODS["low_rank"], emulator=emulator)
    ours, theirs = (load_emulator(chain.open(found)).state_dict() for found in (ref, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
