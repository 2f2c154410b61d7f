"""Emulate: the folder that is given away is a plain model of the kept blocks, bytes and all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.blocks.surgery import with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.emulate import emulate
from tasks.models.emulators.emulator import load_emulator
from tasks.models.loading import load_tokenizer
from tasks.models.resolving import resolve_model
from tasks.store.artifacts import Ref
from tests.tasks.chain import IDS, NUM_BLOCKS, Chain, logits, plain, write_model


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("emulate"))


def fixed(chain: Chain, share: str | None = None, **changes: Any) -> Ref:
    arguments = {"strategy": "fixed", "num_blocks": NUM_BLOCKS, "kept": (0, 2, 5), "tuned": (0, 5), "share": share}
    return chain.cluster(**arguments | changes)


@pytest.mark.parametrize("share", [None, "all", "frozen_only"])
def test_it_loads_without_this_project_as_the_kept_blocks(chain: Chain, share: str | None) -> None:
    ref = chain.emulate(fixed(chain, share))
    model = plain(chain.open(ref))
    assert model.config.num_hidden_layers == 3
    expected = with_layout(chain.full, fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5)))
    assert torch.equal(logits(model), logits(expected))
    written = model.generate(IDS, max_new_tokens=5, do_sample=False)
    assert torch.equal(written, expected.generate(IDS, max_new_tokens=5, do_sample=False))
    assert ref.summary["depth"] == (3 if share is None else NUM_BLOCKS)


@pytest.mark.parametrize("share", [None, "all", "frozen_only"])
def test_laid_out_it_is_the_emulator_in_memory(chain: Chain, share: str | None) -> None:
    ref = chain.emulate(fixed(chain, share))
    expected = with_layout(chain.full, chain.read_plan(ref))
    assert torch.equal(logits(load_emulator(chain.open(ref))), logits(expected))


def test_keeping_every_block_is_the_full_model_bit_for_bit(chain: Chain) -> None:
    ref = chain.emulate(chain.every)
    assert torch.equal(logits(plain(chain.open(ref))), logits(chain.full))
    assert torch.equal(logits(load_emulator(chain.open(ref))), logits(chain.full))
    original = load_file(Path(chain.model.path) / "model.safetensors")
    copied = chain.tensors(ref, "model")
    assert copied.keys() == original.keys()
    assert all(torch.equal(copied[name], tensor) for name, tensor in original.items())


def test_blocks_that_stand_in_for_others_are_stored_once(chain: Chain) -> None:
    removed, repeated = (chain.emulate(fixed(chain, share)) for share in (None, "all"))
    assert removed.key != repeated.key
    assert removed.summary["num_bytes"] == repeated.summary["num_bytes"]
    block = sum(tensor.numel() for tensor in chain.full.model.decoder.layers[0].parameters()) * 4
    whole = chain.emulate(chain.every).summary["num_bytes"]
    # What is left are the headers, which name fewer tensors.
    assert 0 <= whole - removed.summary["num_bytes"] - 3 * block < 8192


def test_what_is_in_the_folder(chain: Chain) -> None:
    folder = chain.open(chain.emulate(chain.plan))
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "plan.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    source = resolve_model(str(folder))
    assert (source.num_blocks, source.tokenizer) == (4, chain.model.tokenizer)
    text = "Question : In which city was Ivan Ingram born ? Answer :"
    assert load_tokenizer(source)(text).input_ids == load_tokenizer(chain.model)(text).input_ids


@pytest.mark.parametrize(
    "options",
    [{"shard": "40KB"}, {"tie_word_embeddings": True}, {"dtype": torch.bfloat16}],
    ids=["shards", "tied", "bfloat16"],
)
def test_other_kinds_of_models(chain: Chain, tmp_path: Path, options: dict[str, Any]) -> None:
    full, source = write_model(tmp_path / "model", **options)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == 1 or "shard" in options
    plan = fixed(chain, "all")
    folder = chain.open(emulate.run(chain.runtime, model=source, plan=plan))
    model = load_emulator(folder)
    assert {tensor.dtype for tensor in model.parameters()} == {full.dtype}
    assert torch.equal(logits(model), logits(with_layout(full, chain.read_plan(plan))))


def test_a_second_call_is_a_hit(chain: Chain) -> None:
    first, count = chain.emulate(chain.plan), chain.num_computed
    assert chain.emulate(chain.plan) == first
    assert chain.num_computed == count


def test_a_plan_for_another_model_is_refused_and_nothing_is_published(chain: Chain) -> None:
    count = chain.num_artifacts("emulate")
    other = fixed(chain, num_blocks=8, kept=(0, 7), tuned=(0,))
    with pytest.raises(InputError, match=r"the plan is for 8 blocks, .* has 6: make a plan for this model"):
        chain.emulate(other)
    assert chain.num_artifacts("emulate") == count
