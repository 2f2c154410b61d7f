"""Plug in: nothing but the tuned blocks enters the full model, and untouched ones leave it as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.blocks.surgery import plug_in as plug_into
from tasks.core.errors import InputError
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tasks.tune import tune
from tests.tasks.chain import SETTINGS, Chain, logits, plain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("plug-in"))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A model that is stored in bfloat16."""
    return Chain(tmp_path_factory.mktemp("narrow"), dtype=torch.bfloat16)


def plugged(chain: Chain, tuned: Ref, **changes: Any) -> Ref:
    return plug_in.run(chain.runtime, **{"model": chain.model, "plan": chain.plan, "tuned": tuned} | changes)


def exported(chain: Chain, ref: Ref) -> dict[str, torch.Tensor]:
    return load_file(chain.open(ref) / "model" / "model.safetensors")


@pytest.mark.parametrize("kind", ["chain", "narrow"])
def test_a_tuning_that_moved_nothing_gives_the_full_model_back(kind: str, request: pytest.FixtureRequest) -> None:
    """At this rate no float32 number changes, not even a zero: the way through emulator, tuning and back is exact."""
    chain: Chain = request.getfixturevalue(kind)
    ref = plugged(chain, chain.tune(learning_rate=1e-60), export=True)
    moved = {name: value for name, value in ref.summary.items() if name.startswith("moved_block_")}
    assert moved == {f"moved_block_{index}": 0.0 for index in chain.read_plan(chain.plan).tuned}
    assert torch.equal(logits(plain(chain.open(ref) / "model")), logits(chain.full))
    original = load_file(Path(chain.model.path) / "model.safetensors")
    assert all(torch.equal(tensor, original[name]) for name, tensor in exported(chain, ref).items())


@pytest.mark.parametrize("kind", ["chain", "narrow"])
def test_only_tuned_blocks_are_replaced(kind: str, request: pytest.FixtureRequest) -> None:
    chain: Chain = request.getfixturevalue(kind)
    tuned, how = chain.tune(learning_rate=1e-2), chain.read_plan(chain.plan)
    ref = plugged(chain, tuned, export=True)
    expected = plug_into(chain.full, chain.tensors(tuned, "tuned"), how)
    model = plain(chain.open(ref) / "model")
    assert torch.equal(logits(model), logits(expected))
    assert not torch.allclose(logits(model), logits(chain.full), atol=1e-2)
    assert model.dtype == chain.full.dtype
    original = load_file(Path(chain.model.path) / "model.safetensors")
    prefixes = {f"model.decoder.layers.{index}." for index in how.tuned}
    for name, tensor in exported(chain, ref).items():
        if not name.startswith(tuple(prefixes)):
            assert torch.equal(tensor, original[name]), name


def test_what_is_published_is_in_the_models_format(narrow: Chain) -> None:
    tuned = narrow.tune(learning_rate=1e-2)
    ref = plugged(narrow, tuned)
    given, admitted = narrow.tensors(tuned, "tuned"), narrow.tensors(ref, "tuned")
    assert {tensor.dtype for tensor in given.values()} == {torch.float32}
    assert admitted.keys() == given.keys()
    assert all(torch.equal(admitted[name], tensor.to(torch.bfloat16)) for name, tensor in given.items())
    assert narrow.read_plan(ref) == narrow.read_plan(narrow.plan)
    names = {"manifest.json", "plan.json", "tuned.safetensors", "variant.json"}
    assert {path.name for path in narrow.open(ref).iterdir()} == names


def test_how_far_each_block_moved(chain: Chain) -> None:
    tuned = chain.tune(learning_rate=1e-2)
    state, ref = chain.tensors(tuned, "tuned"), plugged(chain, tuned)
    for index in chain.read_plan(chain.plan).tuned:
        block = dict(chain.full.model.decoder.layers[index].named_parameters())
        before = torch.cat([tensor.detach().flatten() for tensor in block.values()]).double()
        after = torch.cat([state[f"{index}.{name}"].flatten() for name in block]).double()
        expected = float((after - before).norm() / before.norm())
        assert ref.summary[f"moved_block_{index}"] == pytest.approx(expected, rel=1e-5)
        assert expected > 0


def test_a_fully_tuned_model_goes_in_as_well(chain: Chain) -> None:
    arguments = {"task": chain.task, "plan": chain.every, "settings": SETTINGS, "precision": "float32"}
    tuned = tune.run(chain.runtime, model=chain.model, **arguments)
    ref = plugged(chain, tuned, plan=chain.every, export=True)
    expected = plug_into(chain.full, chain.tensors(tuned, "tuned"), chain.read_plan(chain.every))
    assert torch.equal(logits(plain(chain.open(ref) / "model")), logits(expected))


def test_blocks_of_another_plan_are_refused_and_nothing_is_published(chain: Chain) -> None:
    tuned, count = chain.tune(learning_rate=1e-2), chain.num_artifacts("plug_in")
    with pytest.raises(InputError, match=r"tuned blocks lack \d+ tensors of the plan, first \d\."):
        plugged(chain, tuned, plan=chain.every)
    assert chain.num_artifacts("plug_in") == count


def test_a_second_call_is_a_hit_and_an_export_is_not(chain: Chain) -> None:
    tuned = chain.tune(learning_rate=1e-2)
    first, count = plugged(chain, tuned), chain.num_computed
    assert plugged(chain, tuned, export=False) == first
    assert chain.num_computed == count
    assert plugged(chain, tuned, export=True).key != first.key
