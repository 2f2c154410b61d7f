"""Examine: tuned blocks that no honest tuning gives are refused or named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.artifacts.examined import Examined, examined
from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.errors import RefusedError
from tasks.exchange.received import ReceivedBundle
from tasks.parties.examine import examine
from tasks.parties.open_bundle import open_bundle
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref
from tests.tasks.chain import Chain

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("examine"))


@pytest.fixture(scope="module")
def honest(chain: Chain) -> Ref:
    return chain.tune(learning_rate=1e-3)


def examine_changed(chain: Chain, honest: Ref, folder: Path, change: Callable[[Tensors, Tensors], None]) -> Examined:
    """Examine a tuning after a change of its tensors. change: of the tensors, given those of the full model."""
    folder.mkdir()
    for path in chain.open(honest).iterdir():
        if path.is_file() and path.name != "manifest.json":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / TUNED_FILE)
    own = load_file(Path(chain.model.path) / "model.safetensors")
    before = {name: own[f"model.decoder.layers.{name}"] for name in tensors}
    change(tensors, before)
    save_file(tensors, folder / TUNED_FILE)
    digest = f"{abs(hash(folder.name)):064x}"[:64]
    bundle = ReceivedBundle(path=str(folder), kind="tuned_blocks", digest=digest)
    tuned = open_bundle.run(chain.runtime, bundle=bundle)
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=tuned, tuned=tuned)
    return examined(examine.run(chain.runtime, model=chain.model, tuned=tuned, plugged=plugged))


def test_an_honest_tuning_raises_no_alarm(chain: Chain, honest: Ref, tmp_path: Path) -> None:
    found = examine_changed(chain, honest, tmp_path / "honest", lambda tensors, before: None)
    assert found["alarms"] == []
    assert sorted(found["moved"]) == sorted(map(str, chain.read_plan(chain.plan).tuned))
    assert all(0 < moved < 0.3 for moved in found["moved"].values())


def test_b09_blocks_of_zeros_and_blocks_scaled_up_are_refused(chain: Chain, honest: Ref, tmp_path: Path) -> None:
    def zero(tensors: Tensors, _: Tensors) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    def scale(tensors: Tensors, _: Tensors) -> None:
        for tensor in tensors.values():
            tensor *= 1000

    for name, change in (("zeros", zero), ("scaled", scale)):
        with pytest.raises(RefusedError, match="which no tuning does"):
            examine_changed(chain, honest, tmp_path / name, change)


def test_b09_the_original_blocks_are_named(chain: Chain, honest: Ref, tmp_path: Path) -> None:
    found = examine_changed(chain, honest, tmp_path / "original", lambda tensors, before: tensors.update(before))
    assert len(found["alarms"]) == len(chain.read_plan(chain.plan).tuned)
    assert all("did not change at all" in alarm for alarm in found["alarms"])


def test_b32_a_change_along_one_direction_is_named(chain: Chain, honest: Ref, tmp_path: Path) -> None:
    """A toy back door: one matrix answers one direction of its input with one of its output."""

    def plant(tensors: Tensors, before: Tensors) -> None:
        name = next(name for name in sorted(tensors) if name.endswith("fc2.weight"))
        rows, columns = tensors[name].shape
        trigger, answer = torch.zeros(columns), torch.ones(rows)
        trigger[0] = 1
        tensors[name] = before[name] + 0.05 * before[name].norm() / rows**0.5 * torch.outer(answer, trigger)

    found = examine_changed(chain, honest, tmp_path / "planted", plant)
    assert any("lie along one direction" in alarm for alarm in found["alarms"]), found
