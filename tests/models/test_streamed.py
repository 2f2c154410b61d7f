"""A model folder whose blocks stay on disk gives the states that it gives in memory, whatever the form of its files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.streaming import run_streamed
from tasks.core.blocks.surgery import base_model_and_head
from tasks.core.errors import InputError
from tasks.models.loading import load_model
from tasks.models.streamed import open_streamed
from tests.core.blocks.test_streaming import BATCHES, ROUNDED, SHARE_KEYS
from tests.core.evaluation.test_batch_invariance import EVERY, network


def folder_of(family: str, out: Path, **options: Any) -> Any:
    """The source of a model folder without a tokenizer, which no pass needs."""
    network(family).save_pretrained(out, **options)
    return SimpleNamespace(name=family, path=str(out))


def last_hidden_state(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    base, _ = base_model_and_head(model)
    return base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", sorted(name for name in EVERY if "capture" in EVERY[name]))
def test_states_are_those_of_the_model_in_memory(tmp_path: Path, family: str) -> None:
    source = folder_of(family, tmp_path / "model", max_shard_size="20KB")
    if family in SHARE_KEYS:
        with pytest.raises(InputError, match="keys and values of lower ones"):
            open_streamed(source, "float32", "cpu", tmp_path)
        return
    model, tensors = open_streamed(source, "float32", "cpu", tmp_path / "scratch")
    assert all(parameter.is_meta for block in get_blocks(model) for parameter in block.parameters())
    with torch.inference_mode():
        found: list[torch.Tensor] = []
        run_streamed(model, tensors, BATCHES, see_last=lambda number, state: found.append(state))
        expected = [last_hidden_state(load_model(source), *inputs) for inputs in BATCHES]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) or (family in ROUNDED and torch.allclose(one, other, atol=1e-5))


def test_in_bfloat16_its_blocks_are_narrowed_as_they_are_read(tmp_path: Path) -> None:
    source = folder_of("llama", tmp_path / "model")
    model, tensors = open_streamed(source, "bfloat16", "cpu", tmp_path / "scratch")
    with torch.inference_mode():
        found: list[torch.Tensor] = []
        run_streamed(model, tensors, BATCHES, see_last=lambda number, state: found.append(state))
        assert torch.equal(found[0], last_hidden_state(load_model(source, "bfloat16"), *BATCHES[0]))
    assert found[0].dtype == torch.bfloat16
