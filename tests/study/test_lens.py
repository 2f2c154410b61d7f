"""Lens: it resumes to the same bits, belongs to one model, and on the demo it sees the answer sooner with depth."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tasks.core.errors import DivergedError, InputError
from tasks.core.study.lens import measure_curves
from tasks.core.tuning.settings import TrainSettings
from tasks.data.resolving import resolve_task
from tasks.data.tokenize import load_examples
from tasks.engine.runtime import Runtime
from tasks.models.lens_files import DIGEST, load_lens
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.resolving import resolve_model
from tasks.store.artifacts import Ref
from tasks.store.metrics import read_metrics
from tasks.study.lens import lens
from tests.tasks.chain import DEMO, NUM_BLOCKS, WIDTH, Chain, people, write_model
from tests.tasks.test_tune import disturb

SETTINGS = TrainSettings(learning_rate=1e-3, num_steps=6, batch_size=4, max_tokens=256, checkpoint_steps=2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("lens"))


def arguments(chain: Chain, **changes: Any) -> dict[str, Any]:
    given = {"model": chain.model, "task": chain.task, "num_rows": 12, "block": 32, "precision": "float32"}
    given |= {name: changes.pop(name) for name in list(changes) if name in given}
    return given | {"settings": replace(SETTINGS, **changes)}


def trained(chain: Chain, **changes: Any) -> Ref:
    return lens.run(chain.runtime, **arguments(chain, **changes))


def test_what_it_writes(chain: Chain) -> None:
    ref = trained(chain)
    tensors, curves = chain.tensors(ref, "lens"), chain.tensors(ref, "curves")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "weight": (NUM_BLOCKS - 1, WIDTH, WIDTH),
        "bias": (NUM_BLOCKS - 1, WIDTH),
    }
    assert all(block.any() for tensor in tensors.values() for block in tensor), "each translator was trained"
    assert {name: tuple(tensor.shape) for name, tensor in curves.items()} == dict.fromkeys(
        ("kl_logit", "kl_tuned", "agreement_logit", "agreement_tuned"), (NUM_BLOCKS,)
    )
    assert (curves["kl_tuned"][-1], curves["agreement_tuned"][-1]) == (0.0, 1.0)
    assert ref.summary["mean_kl_tuned"] < ref.summary["mean_kl_logit"]
    facts = {"num_rows": 12, "num_held_out_rows": 6, "num_steps": 6, "num_parameters": 5 * (WIDTH * WIDTH + WIDTH)}
    assert facts.items() <= ref.summary.items()
    assert [entry["step"] for entry in read_metrics(chain.open(ref) / "metrics.jsonl")] == list(range(1, 7))


def test_its_curves_are_those_of_the_lens_that_is_loaded(chain: Chain) -> None:
    ref, tokenizer = trained(chain), load_tokenizer(chain.model)
    network = load_model(chain.model)
    own = load_lens(chain.open(ref), chain.model, network)
    assert not any(parameter.requires_grad for parameter in own.parameters())
    # All tokens but the first of a row count, whether they are asked for or given.
    rows = load_examples(chain.task, "validation", tokenizer, 32).rows
    rows = [replace(row, prompt_ids=row.prompt_ids[:1], answer_ids=row.prompt_ids[1:] + row.answer_ids) for row in rows]
    curves = measure_curves(network, own, rows, max_tokens=256)
    torch.testing.assert_close(curves.kl.float(), chain.tensors(ref, "curves")["kl_tuned"])
    assert curves.num_positions == ref.summary["num_positions"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_one_goes_on_to_the_same_bits(chain: Chain, tmp_path: Path, number: int) -> None:
    given = arguments(chain, num_steps=200, checkpoint_steps=10, eval_steps=40)
    expected = lens.run(chain.runtime, **given)
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("lens", "work"))
    elsewhere = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))
    disturb(elsewhere, given, number, stage=lens)
    [written] = (tmp_path / "store").glob("work/*/metrics.jsonl")
    before = read_metrics(written)
    assert 0 < len(before) < 200, "it was stopped on its way"
    ref = lens.run(elsewhere, **given)
    assert ref.digest == expected.digest
    assert read_metrics(elsewhere.open_store().open(ref) / "metrics.jsonl")[:10] == before[:10], "it went on"


def test_a_lens_of_another_model_is_refused(chain: Chain, tmp_path: Path) -> None:
    """Also of one with the same shapes, of which a single number differs."""
    folder = chain.open(trained(chain))
    with safe_open(folder / "lens.safetensors", framework="pt") as reader:
        assert reader.metadata() == {DIGEST: chain.model.weights}
    network = chain.full
    with torch.no_grad():
        network.model.decoder.layers[2].fc1.bias[0] += 1e-3
    other = chain.saved("other")
    with torch.no_grad():
        network.model.decoder.layers[2].fc1.bias[0] -= 1e-3
    with pytest.raises(InputError, match=f"trained for a model with weights {chain.model.weights[:12]}.*train a lens"):
        load_lens(folder, other, network)
    shallow, source = write_model(tmp_path / "shallow", num_hidden_layers=4)
    with pytest.raises(InputError, match="trained for a model with weights"):
        load_lens(folder, source, shallow)
    with pytest.raises(InputError, match=r"holds no tuned lens: it has no lens\.safetensors"):
        load_lens(tmp_path, chain.model, network)


def test_narrow_computing_gives_nearly_the_same_lens(chain: Chain) -> None:
    narrow, wide = (chain.tensors(trained(chain, precision=name), "lens") for name in ("bfloat16", "float32"))
    assert narrow["weight"].dtype == torch.float32
    # Six steps of at most 1e-3 each, in whatever direction.
    assert (narrow["weight"] - wide["weight"]).abs().max() <= 2 * 6 * 1e-3
    assert not torch.equal(narrow["weight"], wide["weight"])


def test_one_row_broken_weights_and_a_wild_rate_are_named(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two rows of two or more tokens, these are 1"):
        trained(chain, task=people(num_train=1))
    with pytest.raises(DivergedError, match=r"not finite.*Lower study\.lens_learning_rate"):
        trained(chain, learning_rate=1e30, schedule="constant")
    network, source = write_model(tmp_path / "broken")
    with torch.no_grad():
        network.model.decoder.layers[3].fc2.weight.fill_(float("nan"))
    network.save_pretrained(tmp_path / "broken")
    with pytest.raises(InputError, match="the output of block 3 holds NaN"):
        trained(chain, model=resolve_model(source.path))


def test_what_changes_the_result_and_what_does_not(chain: Chain) -> None:
    first, count = trained(chain), chain.num_computed
    assert trained(chain, checkpoint_steps=5) == first
    assert chain.num_computed == count
    assert len({ref.digest for ref in (first, trained(chain, num_rows=8), trained(chain, seed=2))}) == 3


def test_on_the_demo_the_divergence_falls_with_depth(tmp_path: Path) -> None:
    runtime = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))
    ref = lens.run(
        runtime,
        model=resolve_model(str(DEMO / "model")),
        task=resolve_task({"name": "people", "data": str(DEMO / "task")}),
        settings=TrainSettings(learning_rate=3e-3, num_steps=60, batch_size=32, warmup_steps=5),
        num_rows=400,
        block=64,
        precision="float32",
    )
    with safe_open(runtime.open_store().open(ref) / "curves.safetensors", framework="pt") as reader:
        tuned, logit = reader.get_tensor("kl_tuned"), reader.get_tensor("kl_logit")
    assert (tuned.diff() < 0).all(), "monotone: each block is nearer to the end than the one before"
    assert (tuned[:-1] < logit[:-1]).all()
    assert tuned[0] < 0.5 * logit[0]
    losses = [entry["loss"] for entry in read_metrics(runtime.open_store().open(ref) / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
