"""Linear stand-ins: their errors, the plan that is made from them, and the emulator with the maps in its weights."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.artifacts.stand_in_errors import read_stand_in_errors
from tasks.artifacts.stand_ins import read_stand_ins
from tasks.core.errors import InputError
from tasks.emulate import emulate
from tasks.models.emulators.emulator import load_emulator
from tasks.plug_in import plug_in
from tasks.stand_in_errors import stand_in_errors
from tasks.stand_ins import stand_ins
from tasks.store.artifacts import Ref
from tasks.tune import tune
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, SUPPORT, Chain, logits, plain

ROWS = {name: SUPPORT[name] for name in ("num_rows", "split", "part", "max_tokens", "precision")}
FIXED: dict[str, Any] = {"strategy": "fixed", "num_blocks": NUM_BLOCKS, "share": "linear"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Of a model with biases, which a new one has not."""
    chain = Chain(tmp_path_factory.mktemp("stand_ins"))
    with torch.no_grad():
        for block in chain.full.model.decoder.layers:
            block.fc2.bias.normal_()
    chain.model = chain.saved("biased")
    return chain


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Of a model whose blocks 2 and 3 do nothing but add a constant to their input."""
    chain = Chain(tmp_path_factory.mktemp("idle"))
    chain.make_idle(2, 3)
    return chain


def errors(chain: Chain, longest: int = 2) -> Ref:
    return stand_in_errors.run(chain.runtime, model=chain.model, task=chain.task, longest=longest, **ROWS)


def fixed(chain: Chain, kept: list[int], tuned: list[int], share: str | None = "linear") -> Ref:
    return chain.cluster(**FIXED | {"share": share}, kept=tuple(kept), tuned=tuple(tuned))


def fitted(chain: Chain, plan: Ref) -> Ref:
    return stand_ins.run(chain.runtime, model=chain.model, task=chain.task, plan=plan, **ROWS)


def test_runs_that_do_nothing_have_no_error_and_runs_that_are_too_long_have_none_measured(idle: Chain) -> None:
    ref = errors(idle)
    found = read_stand_in_errors(idle.open(ref))
    assert ref.summary == {"num_blocks": NUM_BLOCKS, "num_runs": 9, "num_rows": NUM_ROWS}
    measured = np.isfinite(found["errors"])
    assert np.argwhere(measured).tolist() == [[a, b] for a in range(6) for b in range(a + 1, min(a + 3, 6))]
    assert np.isfinite(found["errors_without"]).tolist() == measured.tolist()
    assert found["errors_without"][1, 3] < 1e-6 < found["errors_without"][measured].max()
    # With so few rows a map may do harm on others; where nothing changes it is the identity.
    assert found["errors"][1, 3] < 1e-6
    assert np.isfinite(found["effects"]).tolist() == measured.tolist()
    assert found["effects"][1, 3] < 1e-9 < found["effects"][measured].max()


def test_spans_removes_the_run_with_the_smallest_effect(idle: Chain) -> None:
    options = {"num_blocks": NUM_BLOCKS, "num_kept": 4, "num_tuned": 2, "share": "linear"}
    plan = idle.read_plan(idle.cluster(strategy="spans", stand_in_errors=errors(idle), **options))
    assert (plan.kept, plan.tuned, plan.share) == ((0, 1, 4, 5), (0, 5), "linear")
    assert [source for source, _ in plan.layout] == [0, 1, 4, 5]


def test_the_maps_are_in_the_weights_of_the_block_in_front_and_nowhere_else(chain: Chain) -> None:
    plan = fixed(chain, [0, 1, 3, 5], [0, 5])
    maps = fitted(chain, plan)
    assert maps.summary["num_runs"] == 2
    assert maps.summary["only_removed"] == []
    found = read_stand_ins(chain.open(maps))
    assert list(found) == [1, 3]
    runs = json.loads((chain.open(maps) / "stand_ins.json").read_text())
    assert (runs["fronts"], runs["lasts"], runs["paths"]) == ([1, 3], [2, 4], ["fc2", "fc2"])
    assert sum(runs["errors"]) == maps.summary["error"]
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, stand_ins=maps)
    without = emulate.run(chain.runtime, model=chain.model, plan=fixed(chain, [0, 1, 3, 5], [0, 5], None))
    ours, theirs = chain.tensors(emulator, "model"), chain.tensors(without, "model")
    changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    assert ours.keys() == theirs.keys()
    assert changed == {f"model.decoder.layers.{place}.fc2.{kind}" for place in (1, 2) for kind in ("weight", "bias")}
    torch.testing.assert_close(
        ours["model.decoder.layers.2.fc2.bias"], theirs["model.decoder.layers.2.fc2.bias"] @ found[3].matrix
    )
    model = chain.full
    layers = model.model.decoder.layers
    handles = [
        layers[block].fc2.register_forward_hook(lambda _, args, output, block=block: output @ found[block].matrix)
        for block in (1, 3)
    ]
    kept = torch.nn.ModuleList([layers[index] for index in (0, 1, 3, 5)])
    model.model.decoder.layers = kept
    expected = logits(model)
    model.model.decoder.layers = layers
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits(plain(chain.open(emulator))), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(load_emulator(chain.open(emulator))), expected, atol=1e-4, rtol=1e-4)


def test_what_is_plugged_in_is_an_update_of_the_full_models_block(chain: Chain) -> None:
    plan = fixed(chain, [0, 1, 3, 5], [0, 5])
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, stand_ins=fitted(chain, plan))
    tuned = tune.run(chain.runtime, **chain.tuning() | {"plan": plan, "emulator": emulator})
    plugged = plug_in.run(chain.runtime, model=chain.model, plan=plan, tuned=tuned, export=True)
    before, after = chain.full.state_dict(), chain.tensors(plugged, "model/model")
    changed = {name.split(".")[3] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"0", "5"}


def test_a_run_behind_a_tuned_block_is_only_removed_and_named(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    plan = fixed(chain, [1, 2, 4], [2, 4])
    with caplog.at_level(logging.WARNING):
        with pytest.raises(InputError, match=r"no linear stand-in is possible.* 0-0 \(no block is in front\), 3-3"):
            fitted(chain, plan)
        found = fitted(chain, fixed(chain, [0, 1, 3, 5], [3, 5]))
    assert found.summary["only_removed"] == [[4, 4]]
    assert found.summary["num_runs"] == 1
    assert "no linear stand-in for removed blocks 4-4 (block 3 in front is tuned): they are only removed" in caplog.text


def test_without_removed_blocks_there_is_nothing_to_fit(chain: Chain) -> None:
    plan = fixed(chain, [*range(NUM_BLOCKS)], [0])
    maps = fitted(chain, plan)
    assert (maps.summary["num_runs"], maps.summary["only_removed"]) == (0, [])
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, stand_ins=maps)
    assert torch.equal(logits(plain(chain.open(emulator))), logits(chain.full))
    assert errors(chain, longest=0).summary["num_runs"] == 0


def test_in_16_bits_the_weights_stay_in_16_bits(tmp_path: Path) -> None:
    chain = Chain(tmp_path, dtype=torch.bfloat16)
    plan = fixed(chain, [0, 1, 3, 5], [0, 5])
    emulator = emulate.run(chain.runtime, model=chain.model, plan=plan, stand_ins=fitted(chain, plan))
    found = chain.tensors(emulator, "model")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    before = chain.full.state_dict()
    assert not torch.equal(found["model.decoder.layers.1.fc2.weight"], before["model.decoder.layers.1.fc2.weight"])


def test_too_few_rows_are_refused(chain: Chain) -> None:
    with pytest.raises(InputError, match="4 rows are too few for linear stand-ins"):
        stand_in_errors.run(chain.runtime, model=chain.model, task=chain.task, longest=1, **ROWS | {"num_rows": 4})


def test_a_second_call_is_a_hit_and_more_rows_are_not(chain: Chain) -> None:
    first, count = errors(chain), chain.num_computed
    assert errors(chain) == first
    assert chain.num_computed == count
    assert stand_in_errors.key(model=chain.model, task=chain.task, longest=2, **ROWS)[0] == first.key
    more = ROWS | {"num_rows": NUM_ROWS - 1}
    assert stand_in_errors.key(model=chain.model, task=chain.task, longest=2, **more)[0] != first.key
