"""Models as inputs: found, checked, identified by content; every bad one gets its own message."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from tasks.core.errors import EnvironmentFault, InputError
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.resolving import resolve_model
from tasks.store.artifacts import Store
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model
from tests.store.inputs import stories


@pytest.fixture
def folder(real_data: Path, tmp_path: Path) -> Path:
    """A copy of a real model folder, to be spoilt."""
    return Path(shutil.copytree(real_data / "models" / "stories260K", tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    """Change fields of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_facts_of_a_real_model(real_data: Path) -> None:
    source = stories(real_data)
    assert (source.num_blocks, source.family, source.context) == (5, "llama", 512)
    assert set(source.cache_view()) == {"weights", "tokenizer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_decoder_with_its_number_of_blocks(real_data: Path, tmp_path: Path, family: str) -> None:
    tiny_model(family).save_pretrained(tmp_path / "model")
    for file in (real_data / "models" / "stories260K").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "model")
    assert resolve_model(str(tmp_path / "model")).num_blocks == NUM_BLOCKS


def test_identity_is_content_not_place(real_data: Path, folder: Path) -> None:
    before = stories(real_data)
    edit_config(folder, _name_or_path="elsewhere", transformers_version="4.0.0")
    assert resolve_model(str(folder)).cache_view() == before.cache_view()


def test_identity_changes_with_weights_settings_and_tokenizer(real_data: Path, folder: Path) -> None:
    before = stories(real_data)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    weights = resolve_model(str(folder))
    assert weights.weights != before.weights
    assert weights.tokenizer == before.tokenizer
    edit_config(folder, rms_norm_eps=1e-6)
    settings = resolve_model(str(folder))
    assert settings.weights not in (weights.weights, before.weights)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    assert resolve_model(str(folder)).tokenizer != before.tokenizer


def test_a_known_model_and_task_load_nothing_heavy(real_data: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from tasks.store.artifacts import Store
from tasks.data.resolving import resolve_task
from tasks.models.resolving import resolve_model
(Path({str(tmp_path)!r}) / "store").mkdir()
store = Store(Path({str(tmp_path)!r}) / "store")
resolve_model({str(real_data / "models" / "stories260K")!r}, None, store)
resolve_task({{"name": "hellaswag", "data": {str(real_data / "tasks" / "hellaswag")!r}}}, store)
print([name for name in ("torch", "transformers", "lm_eval", "datasets", "prefect", "mlflow") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_load_gives_the_model_of_the_files(real_data: Path) -> None:
    source = stories(real_data)
    model, tokenizer = load_model(source), load_tokenizer(source)
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert next(load_model(source, "bfloat16").parameters()).dtype == torch.bfloat16
    # The sample that llama2.c publishes for this checkpoint.
    ids = torch.tensor([[tokenizer.bos_token_id]])
    text = tokenizer.decode(model.generate(ids, max_new_tokens=24, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")


def test_a_tokenizer_without_padding_gets_one_and_still_encodes_the_same(real_data: Path, folder: Path) -> None:
    text = "The sun!\nis <unk> up"
    before = AutoTokenizer.from_pretrained(folder)
    assert before.pad_token_id is None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for absent in ([], ["unk_token"], ["unk_token", "eos_token"], ["unk_token", "eos_token", "bos_token"]):
        kept = {key: value for key, value in settings.items() if key not in absent}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept))
        plain = AutoTokenizer.from_pretrained(folder).encode(text)
        tokenizer = load_tokenizer(resolve_model(str(folder)))
        assert 0 <= tokenizer.pad_token_id < 512
        assert tokenizer.encode(text) == plain


def test_longest_input_follows_lm_eval(folder: Path) -> None:
    assert resolve_model(str(folder)).context == 512
    edit_config(folder, max_position_embeddings=None)
    assert resolve_model(str(folder)).context == 512  # the tokenizer's
    (folder / "tokenizer_config.json").write_text("{}")
    assert resolve_model(str(folder)).context == 2048
    edit_config(folder, text_config={"max_position_embeddings": 77})
    assert resolve_model(str(folder)).context == 77


def refuse(name: Path | str, message: str, error: type[Exception] = InputError) -> None:
    """The model is refused with a message that matches."""
    with pytest.raises(error, match=message):
        resolve_model(str(name))


def test_no_such_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "absent", "no such folder, and it is not a hub id")


def test_a_file_is_no_model(folder: Path) -> None:
    refuse(folder / "config.json", "is a file: give the folder")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refuse(folder, r"no config\.json \(found: generation_config")


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    refuse(folder, "holds an adapter")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON .line 1"), ("[]", "holds a list")])
def test_broken_config(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    refuse(folder, message)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuse(folder, "has no weights: expected model.safetensors")


def test_weights_cut_short(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    refuse(folder, "Fetch it again")


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(folder, "model-00001-of-00002.safetensors")


def test_missing_tensors_are_found_when_loading(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=6)
    with pytest.raises(InputError, match=r"weights of the model are not in its files, first model\.layers\.5"):
        load_model(resolve_model(str(folder)))


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refuse(folder, "has no tokenizer: expected tokenizer.json")


def test_an_encoder(folder: Path, tmp_path: Path) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=32)
    BertModel(config).save_pretrained(folder)
    refuse(folder, "BertModel of family bert: an encoder")


def test_an_encoder_decoder(folder: Path) -> None:
    T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, vocab_size=32)).save_pretrained(
        folder
    )
    refuse(folder, "an encoder-decoder")


def test_no_language_model_head(folder: Path) -> None:
    edit_config(folder, architectures=["LlamaForSequenceClassification"])
    refuse(folder, "no causal language-model head")


def test_unknown_number_of_blocks(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=None)
    refuse(folder, "does not say how many blocks")


def test_a_family_that_needs_its_own_code(folder: Path) -> None:
    edit_config(folder, model_type="ownfamily", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    (folder / "modeling.py").write_text("raise SystemExit('code of a model folder was run')")
    with pytest.raises(InputError, match="cannot load this model"):
        load_model(resolve_model(str(folder)))


def test_revision_of_a_folder(folder: Path) -> None:
    with pytest.raises(InputError, match="revisions are for hub ids"):
        resolve_model(str(folder), "main")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse("nobody/no-such-model-here", "hub cannot be reached.*hf download nobody", EnvironmentFault)


def test_hub_id_becomes_its_snapshot(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(real_data / "models" / "stories260K")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolve_model("somebody/stories", "v1").cache_view() == stories(real_data).cache_view()
    [(name, revision, patterns)] = asked
    assert (name, revision) == ("somebody/stories", "v1")
    assert not any(".py" in pattern or pattern == "*" for pattern in patterns)


def test_pickled_weights_are_converted_once(real_data: Path, folder: Path, tmp_path: Path) -> None:
    original = load_model(stories(real_data))
    (folder / "model.safetensors").unlink()
    torch.save(original.state_dict(), folder / "pytorch_model.bin")
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store")
    source = resolve_model(str(folder), None, store)
    assert Path(source.path).is_relative_to(store.root)
    for name, tensor in load_model(source).state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name])
    stamp = (Path(source.path) / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(str(folder), None, store) == source
    assert (Path(source.path) / "model.safetensors").stat().st_mtime_ns == stamp
