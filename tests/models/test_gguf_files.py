"""GGUF files: restored to the numbers of llama.cpp's package, to the same model, and refused by name."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from tasks.core.errors import InputError
from tasks.models.folder_facts import GGUF_TYPES
from tasks.models.gguf_files import ARCHITECTURES, find_parts, to_safetensors
from tasks.models.loading import load_model
from tasks.models.resolving import resolve_model
from tasks.models.shape import own_tokenizer, read_shape
from tasks.store.artifacts import Store
from tests.core.more_families import LLAMA
from tests.core.tiny_models import cached_logits, load_plain
from tests.models.gguf_models import Type, write_gguf
from tests.places import ROOT

TEXT = "In 1984, there were  12 people; none of them'd said: naïve!\n"
# Configs as a file describes them: blocks have windows only where the family's default has them.
CONFIGS: dict[str, Any] = {
    "llama": lambda size: LlamaConfig(**LLAMA | size),
    "qwen2": lambda size: Qwen2Config(**LLAMA | size),
    "qwen3": lambda size: Qwen3Config(**LLAMA | size, head_dim=128),
    "gemma2": lambda size: Gemma2Config(**LLAMA | {"head_dim": 256} | size, sliding_window=4),
    "gemma3": lambda size: Gemma3TextConfig(**LLAMA | {"head_dim": 256} | size, sliding_window=4),
    "gpt2": lambda size: GPT2Config(**LLAMA | size),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "tests/data/tokenizers/opt")


@pytest.fixture(scope="module")
def make(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    def made(architecture: str, **changes: Any) -> PreTrainedModel:
        tied = {} if architecture == "gpt2" or architecture.startswith("gemma") else {"tie_word_embeddings": False}
        size = {"vocab_size": len(tokenizer), "num_hidden_layers": 6, "tie_word_embeddings": True} | tied | changes
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[architecture](size)).eval()

    return made


def restored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_the_same_model_again(architecture, make, tokenizer, tmp_path):
    model = make(architecture)
    write_gguf(model, tokenizer, tmp_path / "model.gguf", architecture)
    to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")
    torch.testing.assert_close(cached_logits(load_plain(tmp_path / "out")), cached_logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1])
def test_every_type_is_restored_to_the_bit(kind, make, tokenizer, tmp_path):
    expected = write_gguf(make("qwen2"), tokenizer, tmp_path / "model.gguf", "qwen2", kind)
    to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")
    found = restored(tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], torch.from_numpy(values.copy())), name
    kinds = json.loads((tmp_path / "out/config.json").read_text())[GGUF_TYPES]
    assert kinds[kind.name] > len(found) // 3
    assert sum(kinds.values()) == len(found)


SPLIT = {
    "gpt-2": [" 1984", " 12"],
    "smollm": ["1", "9", "8", "4", " "],
    "qwen2": ["1", "9", "8", "4", " "],
    "llama-bpe": ["198", "4", "12", " "],
}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_tokenizer_is_the_one_of_the_file(architecture, make, tokenizer, tmp_path):
    write_gguf(make(architecture), tokenizer, tmp_path / "model.gguf", architecture)
    to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(TEXT, add_special_tokens=False).input_ids == tokenizer(TEXT, add_special_tokens=False).input_ids
    assert again.decode(again(TEXT).input_ids, skip_special_tokens=True) == TEXT
    assert again.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(("way", "architecture"), [*((way, "llama") for way in SPLIT), ("qwen2", "qwen2")])
def test_texts_are_split_as_the_file_says(way, architecture, make, tokenizer, tmp_path):
    pre = {"tokenizer.ggml.pre": way}
    write_gguf(make(architecture), tokenizer, tmp_path / "model.gguf", architecture, texts=pre)
    to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")
    split = AutoTokenizer.from_pretrained(tmp_path / "out").backend_tokenizer.pre_tokenizer
    found = [TEXT[begin:end] for _, (begin, end) in split.pre_tokenize_str(TEXT)]
    assert "".join(found) == TEXT
    assert set(SPLIT[way]) <= set(found)


def test_a_tokenizer_that_transformers_would_replace_is_refused(make, tokenizer, tmp_path):
    write_gguf(make("qwen2"), tokenizer, tmp_path / "model.gguf", "qwen2", texts={"tokenizer.ggml.pre": "gpt-2"})
    with pytest.raises(InputError, match="would not encode texts as this file's tokenizer does"):
        to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")


def test_an_unknown_way_to_split_is_named(make, tokenizer, tmp_path):
    write_gguf(make("qwen2"), tokenizer, tmp_path / "model.gguf", "qwen2", texts={"tokenizer.ggml.pre": "newest"})
    with pytest.raises(InputError, match="splits texts as newest, which transformers does not know"):
        to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")


def test_a_begin_token_is_put_where_the_file_says(make, tokenizer, tmp_path):
    write_gguf(make("llama"), tokenizer, tmp_path / "model.gguf", "llama")
    to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT).input_ids == tokenizer(TEXT).input_ids


def test_a_scale_that_the_file_does_not_hold_is_refused(make, tokenizer, tmp_path):
    """As of Gemma 2 27B, whose queries are scaled by another number than its width of a head."""
    write_gguf(make("gemma2", head_dim=128), tokenizer, tmp_path / "model.gguf", "gemma2")
    with pytest.raises(InputError, match="heads of 128 numbers scales its queries by a number that the file does not"):
        to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")


@pytest.fixture
def parts(make: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> list[Path]:
    """A model in several parts whose head is untied and in the last one."""
    folder = tmp_path / "parts"
    folder.mkdir()
    write_gguf(make("llama", tie_word_embeddings=False), tokenizer, folder / "model.gguf", "llama", most_tensors=20)
    return sorted(folder.glob("*.gguf"))


def test_parts_are_one_model(parts, make, tmp_path):
    assert len(parts) >= 3
    assert find_parts(parts[1]) == find_parts(parts[0].parent) == parts
    to_safetensors(parts, tmp_path / "out")
    model = make("llama", tie_word_embeddings=False)
    torch.testing.assert_close(cached_logits(load_plain(tmp_path / "out")), cached_logits(model), rtol=1e-5, atol=1e-5)


def test_a_missing_part_is_named(parts):
    parts[1].unlink()
    for place in (parts[0], parts[0].parent):
        with pytest.raises(InputError, match=f"of {len(parts)} parts of model, {parts[1].name} is missing"):
            find_parts(place)


def test_several_models_in_a_folder_are_named(parts):
    shutil.copy(parts[0], parts[0].with_name("other.gguf"))
    with pytest.raises(InputError, match=r"several GGUF files \(model-00001.*other.gguf\): give one of them"):
        find_parts(parts[0].parent)
    assert find_parts(parts[0]) == parts


def test_a_model_is_converted_once_and_found_by_its_file_and_its_folder(make, tokenizer, tmp_path, caplog):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models/model.gguf"
    expected = write_gguf(make("qwen2"), tokenizer, file, "qwen2", Type.Q4_1)
    store = Store(tmp_path / "store")
    with caplog.at_level(logging.INFO):
        first = resolve_model(str(file), store=store)
    assert "restoring the tensors of this GGUF model" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        second = resolve_model(str(file.parent), store=store)
    assert caplog.text == ""
    assert (first.path, first.weights, first.tokenizer, first.num_blocks) == (
        *(second.path, second.weights, second.tokenizer),
        6,
    )
    assert (first.name, first.family) == (str(file), "qwen2")
    loaded = dict(load_model(first, "float32").named_parameters())
    assert all(torch.equal(loaded[name], torch.from_numpy(values.copy())) for name, values in expected.items())


def test_a_link_is_read_by_its_own_name(parts, tmp_path):
    """As the hub's cache keeps files: links to files with other names elsewhere."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, part in enumerate(parts):
        part.rename(blobs / str(number))
        part.symlink_to(blobs / str(number))
    assert resolve_model(str(parts[1]), store=Store(tmp_path / "store")).num_blocks == 6


def test_the_estimate_of_a_model_needs_no_tensors(make, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("CRASH_HOME", str(tmp_path / "home"))
    file, model = tmp_path / "model.gguf", make("llama")
    write_gguf(model, tokenizer, file, "llama", Type.Q4_1)
    assert read_shape(str(file)).parameters == sum(parameter.numel() for parameter in model.parameters())
    read = own_tokenizer(str(file))
    assert read is not None
    assert read.get_vocab().items() >= tokenizer.get_vocab().items()
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_without_the_package_it_is_said_how_to_get_it(make, tokenizer, tmp_path, monkeypatch):
    write_gguf(make("qwen2"), tokenizer, tmp_path / "model.gguf", "qwen2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"gguf.* pip install 'crash-flow\[gguf\]'"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_other_weights_in_the_folder_come_first(make, tokenizer, tmp_path):
    model = make("qwen2")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_gguf(make("qwen3"), tokenizer, tmp_path / "model.gguf", "qwen3")
    assert resolve_model(str(tmp_path)).family == "qwen2"


def test_a_revision_is_for_the_hub(make, tokenizer, tmp_path):
    write_gguf(make("qwen2"), tokenizer, tmp_path / "model.gguf", "qwen2")
    with pytest.raises(InputError, match="is on this machine: revisions are for hub ids"):
        resolve_model(str(tmp_path / "model.gguf"), "main")


@pytest.mark.parametrize("size", [0, 3, 100, 0.5, 0.99])
def test_a_damaged_file_is_named(size, make, tokenizer, tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(make("qwen2"), tokenizer, file, "qwen2")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * size) if size < 1 else size])
    with pytest.raises(InputError, match=r"model.gguf cannot be read.*not a GGUF file: fetch it again"):
        to_safetensors([file], tmp_path / "out")


def test_what_is_no_gguf_file_is_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK" + bytes(5000))
    with pytest.raises(InputError, match=r"model.gguf cannot be read.*not a GGUF file: fetch it again"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_another_architecture_is_named(make, tokenizer, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(InputError, match=r"its architecture is mamba; of GGUF files, llama, .* can be read"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_scaled_positions_are_refused(make, tokenizer, tmp_path):
    scaled = {"llama.rope.scaling.type": "yarn"}
    write_gguf(make("llama"), tokenizer, tmp_path / "model.gguf", "llama", texts=scaled)
    with pytest.raises(InputError, match=r"llama.rope.scaling.type scales the positions"):
        to_safetensors([tmp_path / "model.gguf"], tmp_path / "out")


def test_tensors_that_have_no_place_or_are_missing_are_named(make, tokenizer, tmp_path):
    model = make("llama")
    tensors = dict(model.named_parameters())
    for name, message in (
        ("rope_freqs.weight", "rope_freqs.weight scales the positions"),
        ("blk.0.odd.weight", r"no place for \['blk.0.odd.weight'\]. Give the model's folder"),
    ):
        write_gguf(model, tokenizer, tmp_path / "more.gguf", "llama", tensors={**tensors, name: torch.ones(4)})
        with pytest.raises(InputError, match=message):
            to_safetensors([tmp_path / "more.gguf"], tmp_path / "out")
    fewer = {name: tensor for name, tensor in tensors.items() if name != "model.layers.2.mlp.up_proj.weight"}
    write_gguf(model, tokenizer, tmp_path / "fewer.gguf", "llama", tensors=fewer)
    with pytest.raises(InputError, match=r"lacks \['blk.2.ffn_up.weight'\]"):
        to_safetensors([tmp_path / "fewer.gguf"], tmp_path / "out")
