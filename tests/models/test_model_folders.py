"""Folders that hold more, less or something else than their config says: loaded rightly, or refused at once."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig

from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.models import folder_rules
from tasks.models.checks import check_model
from tasks.models.emulators.emulator import write_emulator
from tasks.models.folder import load_config, load_folder
from tasks.models.folder_tensors import count_parameters
from tasks.models.loading import load_model
from tasks.models.resolving import resolve_model
from tasks.models.shape import read_shape
from tasks.models.tensor_files import INDEX_FILE, stored_tensors, weight_bytes
from tests.core.tiny_models import NUM_BLOCKS, cached_logits, load_plain
from tests.store.folders import add_tokenizer, copied, edit, make_folder

ADAPTER = "adapter_model.safetensors"
PLAN = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share=None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return copied(llama, tmp_path / "model")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of folders, in order."""
    messages: list[str] = []
    monkeypatch.setattr(folder_rules, "say", messages.append)
    return messages


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write the folder's weights again after `change` was done to them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    """The one line with which a run refuses the folder."""
    with pytest.raises(InputError) as caught:
        check_model(Path(resolve_model(str(folder)).path), folder.name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add_adapter(folder: Path) -> None:
    """A LoRA adapter that changes the logits, beside the model."""
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "somebody/base"}))
    path = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    factors = {path.format(block, side): torch.ones(2, 32) for block in range(NUM_BLOCKS) for side in "AB"}
    save_file({name: (t.T if "B" in name else t).contiguous() for name, t in factors.items()}, folder / ADAPTER)


def test_an_adapter_beside_a_model_is_refused_in_a_run_and_in_an_estimate(folder: Path) -> None:
    add_adapter(folder)
    message = refusal(folder)
    assert "an adapter beside it (adapter_config.json, adapter_model.safetensors)" in message
    assert "merge_and_unload" in message
    with pytest.raises(InputError, match="an adapter beside it"):
        read_shape(str(folder))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_weights_of_an_adapter_without_its_settings_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert name in refusal(folder)


def test_no_way_of_loading_picks_up_an_adapter(folder: Path) -> None:
    source = resolve_model(str(folder))
    plain = cached_logits(load_plain(folder))
    add_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
        assert not torch.equal(cached_logits(load_plain(folder)), plain), "transformers alone loads the adapter"
    assert torch.equal(cached_logits(load_folder(folder)), plain)
    assert torch.equal(cached_logits(load_model(source)), plain)


def test_only_files_of_the_identity_are_read(folder: Path) -> None:
    """Names that transformers prefers or follows by itself, each of which would be an error if it were opened."""
    plain = cached_logits(load_plain(folder))
    (folder / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"no weights")
    (folder / "config.4.0.0.json").write_text("no config")
    edit(folder, configuration_files=["config.4.0.0.json"])
    with pytest.raises(InputError, match="cannot load this model"):
        load_folder(folder)
    (folder / "config.4.0.0.json").unlink()
    edit(folder, configuration_files=[])
    assert torch.equal(cached_logits(load_folder(folder)), plain)


def test_weights_in_a_file_of_another_name(folder: Path) -> None:
    edit(folder, transformers_weights="other.safetensors")
    assert "transformers_weights = 'other.safetensors'; name the file model.safetensors" in refusal(folder)


def test_other_weights_beside_the_model_are_named_and_do_not_count(folder: Path, said: list[str]) -> None:
    alone, size = resolve_model(str(folder)), weight_bytes(folder)
    assert not said
    for name in ("consolidated.safetensors", "model-00001-of-00001.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    index = {"weight_map": dict.fromkeys(stored_tensors(folder), "model-00001-of-00001.safetensors")}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    assert resolve_model(str(folder)) == alone
    [message] = said
    assert "weights are those of model.safetensors; consolidated.safetensors, model-00001" in message
    assert weight_bytes(folder) == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"] * 8}, "layer_types has 8 entries.* 6 blocks.*: 6 times 'full_attention'"),
        ({"layer_types": ["full_attention"] * 5}, r"layer_types has 5 entries.*that is left$"),
        (
            {"layer_types": ["sliding_attention", "full_attention"] * 4},
            r"if the last 2 blocks were removed: \['sliding_attention', .*'full_attention'\]",
        ),
        ({"no_rope_layers": [1] * 8}, "no_rope_layers has 8 entries"),
        ({"mlp_only_layers": [0, 7]}, "mlp_only_layers names block 7, but the model has blocks 0 to 5"),
        ({"attention_types": [[["global", "local"], 4]]}, "attention_types describes 8 blocks"),
    ],
)
def test_lists_of_another_depth_are_named(folder: Path, changes: dict, message: str) -> None:
    edit(folder, **changes)
    for look in (resolve_model, read_shape):
        with pytest.raises(InputError, match=message):
            look(str(folder))


def test_a_list_deep_inside_a_composite_config(folder: Path) -> None:
    edit(folder, text_config={"num_hidden_layers": 4, "layer_types": ["full_attention"] * 6})
    assert "layer_types has 6 entries, but the model has 4 blocks" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_a_quantised_model_is_refused_in_a_run_and_in_an_estimate(folder: Path, settings: dict, named: str) -> None:
    edit(folder, quantization_config=settings, _name_or_path="somebody/original")
    for look in (resolve_model, read_shape):
        with pytest.raises(InputError, match=rf"is quantised \({named}.*cannot be tuned.*such as somebody/original"):
            look(str(folder))


def test_null_is_no_quantisation(folder: Path) -> None:
    edit(folder, quantization_config=None)
    resolve_model(str(folder))


def test_quantised_weights_that_no_config_speaks_of(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    change_weights(folder, lambda tensors: tensors.update({f"{name}.qweight": torch.zeros(2, 2, dtype=torch.int32)}))
    assert f"is quantised (its tensor {name}.qweight is I32)" in refusal(folder)


def test_eight_bit_weights_that_no_config_speaks_of(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    assert f"{name} is I8" in refusal(folder)


def resize(folder: Path, rows: int, *names: str) -> None:
    """Give the embedding and the head another number of rows, the config left as it is."""
    both = names or ("model.embed_tokens.weight", "lm_head.weight")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in both:
            old = tensors[name]
            tensors[name] = torch.cat([old, old])[:rows].clone()

    change_weights(folder, change)


@pytest.mark.parametrize("rows", [65, 128, 60])
def test_as_many_tokens_as_the_files_hold(folder: Path, tmp_path: Path, said: list[str], rows: int) -> None:
    resize(folder, rows)
    source = resolve_model(str(folder))
    assert f"the embedding has {rows} rows, config.json says vocab_size = 64" in said[0]
    check_model(folder, "model")
    model = load_model(source)
    assert model.config.vocab_size == rows == model.get_input_embeddings().weight.shape[0]
    assert read_shape(str(folder)).vocabulary == rows
    write_emulator(folder, PLAN, tmp_path / "out")
    assert load_plain(tmp_path / "out").config.vocab_size == rows
    edit(folder, vocab_size=rows)
    assert torch.equal(model(torch.arange(9)[None]).logits, load_plain(folder)(torch.arange(9)[None]).logits)


def test_embedding_and_head_of_different_lengths_are_named_with_both_sizes(folder: Path) -> None:
    resize(folder, 70, "lm_head.weight")
    assert "lm_head.weight is [70, 32] in the model's files, but [64, 32] by its config.json" in refusal(folder)


def test_a_weight_of_another_shape_is_named_without_reading_weights(folder: Path) -> None:
    edit(folder, intermediate_size=40)
    message = refusal(folder)
    assert "model.layers.0.mlp.down_proj.weight is [32, 48] in the model's files, but [32, 40]" in message
    assert "and 17 more weights" in message


def test_weights_that_are_missing_are_named_before_anything_is_computed(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    assert "1 weights of the model are not in its files, first model.layers.2.mlp.up_proj.weight" in refusal(folder)


def test_a_model_saved_before_its_adapter_was_merged(folder: Path) -> None:
    path = "model.layers.0.self_attn.q_proj"

    def unmerged(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{path}.base_layer.weight"] = tensors.pop(f"{path}.weight")
        tensors |= {f"{path}.lora_A.default.weight": torch.ones(2, 32)}

    change_weights(folder, unmerged)
    assert "The files hold LoRA factors: merge them" in refusal(folder)


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts with a seventh block for multi-token prediction, as GLM-4.5 and DeepSeek-V3 store it."""
    folder = tmp_path_factory.mktemp("predicting") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "vocab_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": NUM_BLOCKS}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    config = Glm4MoeConfig(**sizes, **heads, **experts, first_k_dense_replace=0, num_nextn_predict_layers=1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def further_block(tensors: dict[str, torch.Tensor]) -> None:
    last = {name: tensor.clone() for name, tensor in tensors.items() if ".layers.5." in name}
    tensors |= {name.replace(".5.", ".6.", 1): tensor for name, tensor in last.items()}
    tensors |= {"model.layers.6.eh_proj.weight": torch.zeros(32, 64), "model.layers.6.enorm.weight": torch.ones(32)}


def named_tensors(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {"mtp.layers.0.norm.weight": torch.ones(32), "model.mtp_layers.0.proj.weight": torch.zeros(32, 64)}


@pytest.mark.parametrize("change", [further_block, named_tensors])
def test_multi_token_prediction_is_left_out(
    predicting: Path, tmp_path: Path, said: list[str], change: Callable[[dict], None]
) -> None:
    before, folder = resolve_model(str(predicting)), copied(predicting, tmp_path / "model")
    change_weights(folder, change)
    source = resolve_model(str(folder))
    check_model(folder, "model")
    assert "for multi-token prediction are left out, first m" in said[-1]
    assert count_parameters(folder) == count_parameters(predicting)
    assert source.num_blocks == before.num_blocks
    for model, out in ((folder, "with"), (predicting, "without")):
        write_emulator(model, PLAN, tmp_path / out)
    written, expected = (load_file(tmp_path / out / "model.safetensors") for out in ("with", "without"))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert load_plain(tmp_path / "with").config.num_nextn_predict_layers == 0


def test_more_blocks_than_the_config_names(folder: Path) -> None:
    edit(folder, num_hidden_layers=4)
    message = refusal(folder)
    assert "names 4 blocks, the files hold 6 (model.layers.0 to model.layers.5)" in message


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gpt_neox", "opt", "gemma3", "gpt_neo"])
def test_a_sound_folder_passes_in_every_family(tmp_path: Path, said: list[str], family: str) -> None:
    folder = make_folder(tmp_path / "model", family)
    check_model(Path(resolve_model(str(folder)).path), family)
    assert not said
    assert load_config(folder).vocab_size == 64
