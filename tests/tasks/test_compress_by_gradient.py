"""Compress by gradient: an emulator like any other, chosen by the gradients on the support set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.compress_by_gradient import compress_by_gradient
from tasks.core.compression.settings import Compression
from tasks.core.errors import InputError, SettingError
from tasks.evaluate import evaluate
from tasks.models.emulators.emulator import load_emulator
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.tune import tune
from tasks.validate import validate
from tests.tasks.chain import Chain
from tests.tasks.test_distill import distilled, text

__all__ = ["text"]
HOW = Compression("gradot", rank=0.5, channels=0.5)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("gradot"))


def compressed(chain: Chain, how: Compression = HOW, **changes: Any) -> Ref:
    given: dict[str, Any] = {
        "model": chain.model,
        "task": chain.task,
        "emulator": chain.emulate(chain.plan),
        "how": how,
    }
    rows = {"num_rows": 12, "split": "train", "max_tokens": 256, "precision": "float32"}
    return compress_by_gradient.run(chain.runtime, **given | rows | changes)


def test_the_result_is_scored_tuned_and_plugged_in(chain: Chain) -> None:
    emulator, whole = compressed(chain), chain.emulate(chain.plan)
    # Two frozen blocks, of whose 48 channels half stay.
    assert emulator.summary["num_channels"] == 2 * 24
    assert emulator.summary["num_parameters"] < whole.summary["num_parameters"]
    assert emulator.summary["num_bytes"] < whole.summary["num_bytes"]
    written = {"method": "gradot", "rank": 0.5, "channels": 0.5, "loss_weight": 0.1}
    assert json.loads((chain.open(emulator) / "compression.json").read_text()) == written
    inputs = {"model": chain.model, "task": chain.task}
    tuned = tune.run(chain.runtime, **chain.tuning() | {"emulator": emulator})
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=tuned)
    for given in ({"emulator": emulator}, {"emulator": emulator, "tuned": tuned}, {"tuned": plugged}):
        assert evaluate.run(chain.runtime, **inputs, **given).summary["num_rows"] == 6


def test_tuned_blocks_stay_and_the_choice_follows_the_rows(chain: Chain) -> None:
    plan, before = chain.read_plan(chain.plan), chain.tensors(chain.emulate(chain.plan), "model")
    first, other = (chain.tensors(compressed(chain, **rows), "model") for rows in ({}, {"num_rows": 3}))
    frozen = [name for name, tensor in first.items() if name not in before or not torch.equal(tensor, before[name])]
    assert {plan.kept[int(name.split(".")[3])] for name in frozen} == set(plan.frozen)
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_the_weight_of_the_loss_changes_the_choice_and_the_loss_rises(chain: Chain) -> None:
    losses = []
    for weight in (0.0, 10.0):
        emulator = compressed(chain, Compression("gradot", rank=0.5, channels=0.5, loss_weight=weight))
        found = validate.run(chain.runtime, model=chain.model, task=chain.task, emulator=emulator)
        losses.append(found.summary["loss"])
    assert losses[0] < losses[1]


def test_it_can_be_distilled_afterwards(chain: Chain, text: Path) -> None:
    emulator = compressed(chain)
    ref = distilled(chain, text, emulator=emulator)
    ours, theirs = (load_emulator(chain.open(each)).state_dict() for each in (ref, emulator))
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("missing", ["rank", "channels"])
def test_what_is_missing_is_named(missing: str) -> None:
    given: dict[str, Any] = {"rank": 0.5, "channels": 0.5}
    del given[missing]
    with pytest.raises(SettingError, match=f'method = "gradot" needs {missing}'):
        Compression("gradot", **given)


def test_an_impossible_rank_publishes_nothing(chain: Chain) -> None:
    count = chain.num_artifacts("compress_by_gradient")
    with pytest.raises(InputError, match="no weight of a block has a rank above 32"):
        compressed(chain, Compression("gradot", rank=500, channels=0.5))
    assert chain.num_artifacts("compress_by_gradient") == count
