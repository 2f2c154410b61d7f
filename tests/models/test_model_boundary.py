"""Damaged files of a model: each becomes one line of this project's, before anything is computed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.core.errors import CrashError, InputError
from tasks.models.checks import check_model
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.resolving import resolve_model
from tests.core.tiny_models import load_plain
from tests.store.folders import copied, edit, make_folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return copied(llama, tmp_path / "model")


def checked(folder: Path) -> None:
    """What a run does with a model before it computes."""
    source = resolve_model(str(folder))
    check_model(Path(source.path), source.name)
    load_tokenizer(source)


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": "6"}, "num_hidden_layers = '6'"),
        ({"num_hidden_layers": None}, "does not say how many blocks"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 5}, "32"),
        ({"vocab_size": "64"}, "vocab_size"),
        ({"pad_token_id": 64}, "adding"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "spiral"),
        ({"hidden_act": "swosh"}, "swosh"),
        ({"model_type": "llama9"}, "llama9"),
        ({"model_type": ["llama"]}, "model_type = ['llama']"),
        ({"architectures": "LlamaForCausalLM"}, "architectures = 'LlamaForCausalLM'"),
        ({"architectures": 5}, "architectures = 5"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2"),
        ({"layer_types": ["no_such_attention"] * 6}, "layer_types"),
    ],
)
def test_settings_of_a_wrong_kind(folder: Path, changes: dict, named: str) -> None:
    edit(folder, **changes)
    refused(folder, named)


def test_an_unknown_family_names_the_release_that_is_installed(folder: Path) -> None:
    import transformers

    edit(folder, model_type="llama9")
    refused(folder, f"transformers {transformers.__version__} cannot load this model", "llama9")


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("config.json", "[" * 100_000, "is not valid JSON"),
        ("config.json", b"\xff\xfe{\x00}\x00", "is UTF-16 text"),
        ("generation_config.json", "[]", "generation_config.json holds a list"),
        ("generation_config.json", "{", "generation_config.json is not valid JSON"),
        ("generation_config.json", '{"max_new_tokens": "many"}', "generation_config.json"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a list"),
        ("tokenizer.json", "{}", "cannot load the tokenizer"),
        ("tokenizer.json", "", "cannot load the tokenizer"),
        ("tokenizer.json", '{"version": "9.0", "model": {"type": "Future"}}', "cannot load the tokenizer"),
        ("special_tokens_map.json", "[1]", "cannot load the tokenizer"),
        ("chat_template.jinja", b"\xff\xfe", "cannot load the tokenizer"),
        ("model.safetensors.index.json", "{}", ""),
    ],
)
def test_damaged_files(folder: Path, file: str, text: str | bytes, named: str) -> None:
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    if named:
        refused(folder, named)
    else:  # not read: the folder has a single file
        checked(folder)


def header(**entry: object) -> bytes:
    text = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cut short"),
        (b"PK\x03\x04 a zip file, not tensors", "cut short"),
        ((2).to_bytes(8, "little") + b"[]", "no safetensors header"),
        ((5).to_bytes(8, "little") + b"\xff\xfe\xff\xfe\xff", "no safetensors header"),
        (header(shape=["two"]), "no safetensors header"),
        (header(shape=[3]), "bytes for another shape"),
        (header(shape=[-2]), "bytes for another shape"),
        (header(data_offsets=[0]), "no safetensors header"),
        (header(data_offsets=[0, 80]), "up to byte"),
    ],
)
def test_damaged_weights(folder: Path, content: bytes, named: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, named, "Fetch it again")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04", b"\x80\x02cos\nsystem\n."])
def test_damaged_pickled_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CrashError, match="damaged or holds more than tensors"):
        checked(folder)


def test_special_tokens_as_objects_are_read(folder: Path) -> None:
    edit(folder, "special_tokens_map.json", bos_token={"content": "<s>", "lstrip": False, "normalized": False})
    checked(folder)


def test_generation_settings_that_contradict_each_other_do_not_stop_an_export(folder: Path, tmp_path: Path) -> None:
    edit(folder, "generation_config.json", do_sample=False, temperature=0.3, _from_model_config=False)
    source = resolve_model(str(folder))
    check_model(folder, "model")
    model = load_model(source)
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.3
    ids = torch.arange(9)[None]
    assert torch.equal(load_plain(tmp_path / "out")(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["some..body/model", "some--body/model", "model.git", "a" * 120])
def test_hub_ids_that_the_hub_does_not_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CrashError) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


def test_nothing_heavy_is_imported_to_refuse(folder: Path) -> None:
    edit(folder, layer_types=["full_attention"] * 8)
    program = (
        "import sys\nfrom tasks.models.resolving import resolve_model\n"
        f"try:\n    resolve_model({str(folder)!r})\n"
        "except ValueError as error:\n    print('layer_types' in str(error))\n"
        "print([name for name in ('torch', 'transformers', 'sentencepiece') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == ["True", "[]"]
