"""A model folder whose blocks stay on disk gives the states that it gives in memory, whatever the form of its files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.streaming import load_blocks, run_streamed
from tasks.core.blocks.surgery import base_model_and_head
from tasks.core.errors import InputError
from tasks.models.loading import load_model
from tasks.models.streamed import open_blocks, open_streamed
from tests.core.blocks.test_streaming import BATCHES, ROUNDED, SHARE_KEYS
from tests.core.evaluation.test_batch_invariance import EVERY, network


def folder_of(family: str, out: Path, **options: Any) -> Any:
    """The source of a model folder without a tokenizer, which no pass needs."""
    network(family).save_pretrained(out, **options)
    return SimpleNamespace(name=family, path=str(out))


def streamed(source: Any, folder: Path, precision: str = "float32") -> Any:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return open_streamed(source, precision, "cpu", scratch)


def last_hidden_state(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    base, _ = base_model_and_head(model)
    return base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", sorted(name for name in EVERY if "capture" in EVERY[name]))
def test_states_are_those_of_the_model_in_memory(tmp_path: Path, family: str) -> None:
    source = folder_of(family, tmp_path / "model", max_shard_size="20KB")
    if family in SHARE_KEYS:
        with pytest.raises(InputError, match="keys and values of lower ones"), streamed(source, tmp_path):
            pass
        return
    found: list[torch.Tensor] = []
    with torch.inference_mode(), streamed(source, tmp_path) as (model, tensors):
        assert all(parameter.is_meta for block in get_blocks(model) for parameter in block.parameters())
        run_streamed(model, tensors, BATCHES, see_last=lambda number, state: found.append(state))
    with torch.inference_mode():
        expected = [last_hidden_state(load_model(source), *inputs) for inputs in BATCHES]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) or (family in ROUNDED and torch.allclose(one, other, atol=1e-5))
    assert not list((tmp_path / "scratch").iterdir()), "what fused experts needed on disk"


def test_in_bfloat16_its_blocks_are_narrowed_as_they_are_read(tmp_path: Path) -> None:
    source = folder_of("llama", tmp_path / "model")
    found: list[torch.Tensor] = []
    with torch.inference_mode(), streamed(source, tmp_path, "bfloat16") as (model, tensors):
        run_streamed(model, tensors, BATCHES, see_last=lambda number, state: found.append(state))
        assert torch.equal(found[0], last_hidden_state(load_model(source, "bfloat16"), *BATCHES[0]))
    assert found[0].dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2", "gemma4_text"])
def test_some_blocks_alone_are_those_of_the_model(tmp_path: Path, family: str) -> None:
    source = folder_of(family, tmp_path / "model", max_shard_size="20KB")
    model = open_blocks(source, [1, 3], tmp_path)
    for index, (block, whole) in enumerate(zip(get_blocks(model), get_blocks(load_model(source)), strict=True)):
        for (name, one), (_, other) in zip(block.named_parameters(), whole.named_parameters(), strict=True):
            assert one.is_meta if index not in (1, 3) else torch.equal(one, other), name
    with pytest.raises(InputError, match="no block 99 to load: the model has blocks 0 to "):
        open_blocks(source, [99], tmp_path)


def test_blocks_that_were_loaded_stay_and_the_others_are_streamed(tmp_path: Path) -> None:
    source = folder_of("llama", tmp_path / "model")
    found: list[torch.Tensor] = []
    with torch.inference_mode(), streamed(source, tmp_path) as (model, tensors):
        load_blocks(model, tensors, [2])
        run_streamed(model, tensors, BATCHES, see_last=lambda number, state: found.append(state))
        assert [any(each.is_meta for each in block.parameters()) for block in get_blocks(model)] == [
            index != 2 for index in range(len(get_blocks(model)))
        ]
        assert torch.equal(found[0], last_hidden_state(load_model(source), *BATCHES[0]))
