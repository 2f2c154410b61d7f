"""Pickled weights: converted to the same numbers, and never run."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from tasks.core.errors import InputError, RefusedError
from tasks.core.plan.layout import fixed_plan
from tasks.models.emulators.emulator import to_safetensors, write_emulator
from tests.core.tiny_models import NUM_BLOCKS, cached_logits, load_plain, tiny_model

SHARED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share="all")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama"])
def test_pickled_weights_are_converted(name: str, tmp_path: Path) -> None:
    """One file or shards, tied or not: the same logits, from safetensors only."""
    model = tiny_model(name)
    (tmp_path / "one").mkdir()
    model.config.save_pretrained(tmp_path / "one")
    torch.save(model.state_dict(), tmp_path / "one" / "pytorch_model.bin")
    to_safetensors(tmp_path / "one", tmp_path / "converted")
    assert torch.equal(cached_logits(load_plain(tmp_path / "converted")), cached_logits(model))

    names = list(model.state_dict())
    weight_map = {key: f"pytorch_model-0000{1 + (at > 9)}-of-00002.bin" for at, key in enumerate(names)}
    (tmp_path / "two").mkdir()
    model.config.save_pretrained(tmp_path / "two")
    for file in set(weight_map.values()):
        part = {key: value for key, value in model.state_dict().items() if weight_map[key] == file}
        torch.save(part, tmp_path / "two" / file, _use_new_zipfile_serialization=False)
    (tmp_path / "two" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    to_safetensors(tmp_path / "two", tmp_path / "from shards")
    assert torch.equal(cached_logits(load_plain(tmp_path / "from shards")), cached_logits(model))


class Payload:
    """Touches a file if it is ever unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("content", ["code", "truncated", "list"])
def test_pickles_that_are_not_just_tensors_are_refused_and_not_run(content: str, folder: Path, tmp_path: Path) -> None:
    file, proof = folder / "pytorch_model.bin", tmp_path / "ran"
    torch.save({"a": Payload(proof)} if content == "code" else {"a": [torch.ones(3)]}, file)
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RefusedError, match=r"pytorch_model.bin .* Ask for safetensors weights"):
        to_safetensors(folder, tmp_path / "out")
    assert not proof.exists()
    if content == "code":
        pickle.loads(pickle.dumps(Payload(proof)))
        assert proof.exists(), "the payload works, so its absence above means that it was not run"


def test_a_folder_of_pickles_only_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="it holds pickled weights only: convert them first"):
        write_emulator(folder, SHARED, tmp_path / "out")
    assert not (tmp_path / "out").exists()
