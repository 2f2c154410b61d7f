"""Emulator folders with harmonizers, of every family: written, loaded, compressed and refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tasks.artifacts.harmonizers import Weights
from tasks.core.blocks.surgery import get_blocks, plug_in, tuned_state, with_layout
from tasks.core.compression.settings import Compression
from tasks.core.errors import InputError
from tasks.core.harmonizers.harmonizer import add_harmonizers
from tasks.core.plan.layout import fixed_plan
from tasks.models.emulators.compressed_emulator import write_compressed
from tasks.models.emulators.emulator import load_emulator, save_expanded, write_emulator
from tasks.models.folder_tensors import count_parameters
from tests.core.harmonizers.test_harmonizer import PLAN, RANK, REMOVED, harmonizers
from tests.core.tiny_models import FAMILIES, WIDTH, cached_logits, load_plain, tiny_model, token_ids


def weights(*blocks: int) -> dict[int, Weights]:
    return {block: Weights(each.down.detach(), each.up.detach()) for block, each in harmonizers(*blocks).items()}


def written(model: PreTrainedModel, folder: Path, *blocks: int) -> Path:
    model.save_pretrained(folder / "model")
    write_emulator(folder / "model", PLAN, folder / "emulator", harmonizers=weights(*blocks))
    return folder / "emulator"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_is_what_was_laid_out(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    folder = written(model, tmp_path, *REMOVED)
    emulator = with_layout(model, PLAN)
    assert torch.equal(cached_logits(load_plain(folder)), cached_logits(emulator)), "without them, the short model"
    add_harmonizers(emulator, PLAN, harmonizers(*REMOVED))
    loaded = load_emulator(folder)
    assert torch.equal(cached_logits(loaded), cached_logits(emulator))
    assert {name for name, each in loaded.named_parameters() if each.requires_grad} == {
        name for name, each in emulator.named_parameters() if each.requires_grad
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_tuned_blocks_stay_pure_updates(family: str, tmp_path: Path) -> None:
    """A tuned block is stored, returned and plugged in as the full model's own block, to the bit."""
    model = tiny_model(family)
    loaded = load_emulator(written(model, tmp_path, *REMOVED))
    state = tuned_state(loaded, PLAN)
    own = dict(get_blocks(model)[1].named_parameters())
    assert state.keys() == {f"1.{name}" for name in own}
    assert all(torch.equal(state[f"1.{name}"], tensor) for name, tensor in own.items())
    assert torch.equal(cached_logits(plug_in(model, state, PLAN)), cached_logits(model))
    loaded(token_ids(), labels=token_ids()).loss.backward()
    assert any(each.grad is not None for each in get_blocks(loaded)[0].parameters())


def test_files_and_numbers(tmp_path: Path) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    folder = written(model, tmp_path, 2, 5)
    found = load_file(folder / "model.safetensors")
    own = {name for name in found if name.startswith("harmonizer_")}
    assert own == {f"harmonizer_{block}.{part}" for block in (2, 5) for part in ("down", "up")}
    assert {found[name].dtype for name in own} == {torch.bfloat16}
    assert (found["harmonizer_2.down"].shape, found["harmonizer_2.up"].shape) == ((RANK, WIDTH), (WIDTH, RANK))
    short = tmp_path / "short"
    write_emulator(tmp_path / "model", PLAN, short)
    assert count_parameters(folder) - count_parameters(short) == 2 * 2 * RANK * WIDTH
    wide = load_emulator(folder, dtype=torch.float32)
    assert {each.dtype for each in wide.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "how",
    [
        Compression("prune", ratio=0.3),
        Compression("quantise", bits=4),
        Compression("low_rank", rank=0.3),
        Compression("low_rank", rank=0.3, parts="attention"),
    ],
    ids=lambda how: f"{how.method}-{how.parts}",
)
def test_compression_leaves_them(how: Compression, tmp_path: Path) -> None:
    folder = written(tiny_model("llama"), tmp_path, *REMOVED)
    write_compressed(folder, how, tmp_path / "cheaper")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "cheaper"))
    own = [name for name in before if name.startswith("harmonizer_")]
    assert len(own) == 2 * len(REMOVED)
    assert all(torch.equal(after[name], before[name]) for name in own)
    cheaper = load_emulator(tmp_path / "cheaper")
    assert not torch.equal(cached_logits(cheaper), cached_logits(load_emulator(folder)))
    assert cheaper.harmonizers


def test_a_plain_folder_cannot_hold_them(tmp_path: Path) -> None:
    folder = written(tiny_model("llama"), tmp_path, 2)
    with pytest.raises(InputError, match="has harmonizers, which a plain Hugging Face folder cannot hold"):
        save_expanded(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_harmonizers_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = written(tiny_model("llama"), tmp_path, 2)
    other = fixed_plan(PLAN.num_blocks, (2, 3), (3,), share="harmonizers")
    (folder / "plan.json").write_text(other.to_json())
    with pytest.raises(InputError, match="the harmonizer of block 2 does not fit the plan: make the emulator again"):
        load_emulator(folder)
    assert json.loads((folder / "plan.json").read_text())["share"] == "harmonizers"
