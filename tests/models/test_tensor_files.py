"""Safetensors files as byte ranges: what is read, written, sharded, aligned and refused."""

import json
from pathlib import Path

import pytest
import torch

from tasks.core.errors import EnvironmentFault, InputError
from tasks.core.plan.layout import fixed_plan
from tasks.models import tensor_files
from tasks.models.emulators.emulator import read_tensors, to_safetensors, write_emulator
from tasks.models.tensor_files import StoredTensor, read_header, stored_tensors, write_tensors
from tests.core.tiny_models import NUM_BLOCKS, cached_logits, load_plain, tiny_model

SHARED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share="all")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_shards_in_and_shards_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_plain(folder).save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    write_emulator(folder, SHARED, tmp_path / "one")
    monkeypatch.setattr(tensor_files.write_tensors, "__defaults__", (30_000,))
    write_emulator(tmp_path / "sharded", SHARED, tmp_path / "many")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(file.stat().st_size < 32_000 for file in shards)
    assert torch.equal(cached_logits(load_plain(tmp_path / "many")), cached_logits(load_plain(tmp_path / "one")))
    assert stored_tensors(tmp_path / "many").keys() == stored_tensors(tmp_path / "one").keys()


def test_reading_some_tensors(folder: Path) -> None:
    names = ["model.layers.3.mlp.up_proj.weight", "lm_head.weight"]
    read = read_tensors(folder, names)
    assert list(read) == names
    state = load_plain(folder).state_dict()
    assert all(torch.equal(read[name], state[name]) for name in names)
    with pytest.raises(InputError, match=r"has no tensor h.0.weight; it has lm_head.weight"):
        read_tensors(folder, ["h.0.weight"])


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    damages = {
        "has .* file has|describes data": whole[:-1],
        "cut short": whole[:5],
        "no safetensors header": whole[:8] + b"x" * length + whole[8 + length :],
    }
    for message, damaged in damages.items():
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=f"model.safetensors.*({message})"):
            write_emulator(folder, SHARED, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_index_that_leaves_its_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    for name in ("../elsewhere.safetensors", "absent.safetensors"):
        index = {"weight_map": {"lm_head.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match=r"names the shard .* which is not in that folder"):
            stored_tensors(folder)


def test_too_little_disk_is_said_before_the_first_byte(folder: Path, tmp_path: Path) -> None:
    huge = StoredTensor("F32", (1 << 60,), folder / "model.safetensors", 0, 1 << 62)
    with pytest.raises(EnvironmentFault, match=r"needs 4611686018.4 GB, its disk has .* make room"):
        write_tensors([("huge", huge)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tensors_of_mixed_width_are_aligned(tmp_path: Path) -> None:
    """Readers that map a file expect every tensor at a multiple of its item size."""
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2, dtype=torch.float64), "c": torch.ones(())}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    tiny_model("llama").config.save_pretrained(tmp_path)
    to_safetensors(tmp_path, tmp_path / "out")
    stored = read_header(tmp_path / "out" / "model.safetensors")
    assert stored["b"].start % 8 == stored["c"].start % 4 == 0
    assert all(torch.equal(value, tensors[name]) for name, value in read_tensors(tmp_path / "out", "abc").items())
