"""Emulator folders: the same numbers as surgery in memory, each block once, plain folders."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedModel

from tasks.core.blocks.surgery import get_blocks, layout, with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, fixed_plan
from tasks.models.emulators.emulator import load_emulator, save_expanded, write_emulator
from tasks.models.tensor_files import stored_tensors, write_tensors
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, cached_logits, load_plain, tiny_model

REMOVED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share=None)
SHARED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share="all")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(request.param)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_is_the_emulator(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    """Streamed bytes against surgery in memory, and against plain loading without this project."""
    model, source = family
    for plan in (REMOVED, SHARED):
        out = tmp_path / str(plan.share)
        write_emulator(source, plan, out)
        assert torch.equal(cached_logits(load_plain(out)), cached_logits(with_layout(model, REMOVED))), (
            "kept blocks in order"
        )
        emulator = load_emulator(out)
        assert torch.equal(cached_logits(emulator), cached_logits(with_layout(model, plan)))
        save_expanded(out, tmp_path / f"{plan.share} expanded")
        expanded = load_plain(tmp_path / f"{plan.share} expanded")
        assert len(get_blocks(expanded)) == len(plan.layout)
        assert torch.equal(cached_logits(expanded), cached_logits(emulator))


def test_each_kept_block_is_stored_once(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, source = family
    write_emulator(source, SHARED, tmp_path / "out")
    before, after = stored_tensors(source), stored_tensors(tmp_path / "out")
    blocks = get_blocks(model)
    of_block = {name for name in before if any(f".{index}." in f".{name}" for index in range(len(blocks)))}
    assert len(after) == len(before) - len(of_block) * 2 // NUM_BLOCKS
    assert sum(tensor.num_bytes for tensor in after.values()) < sum(tensor.num_bytes for tensor in before.values())
    emulator = load_emulator(tmp_path / "out")
    by_source: dict[int, set[int]] = {}
    for block, (index, is_tuned) in zip(get_blocks(emulator), SHARED.layout, strict=True):
        found = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
        assert all(parameter.requires_grad == is_tuned for parameter in block.parameters())
        if is_tuned:
            assert not any(found & others for others in by_source.values())
        else:
            assert by_source.setdefault(index, found) == found


def test_a_language_model_inside_a_larger_one(tmp_path: Path) -> None:
    """Gemma-3 with eyes: blocks and config lie deeper, the eyes stay as they are."""
    eyes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    eyes |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=FAMILIES["gemma3"]().to_dict(), vision_config=eyes, mm_tokens_per_image=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", SHARED, tmp_path / "out")
    emulator = load_emulator(tmp_path / "out")
    assert emulator.config.vision_config.num_hidden_layers == 2
    assert torch.equal(cached_logits(emulator), cached_logits(with_layout(model, SHARED)))
    with layout(model, SHARED):
        assert torch.equal(cached_logits(emulator), cached_logits(model))
    assert model.config.text_config.num_hidden_layers == NUM_BLOCKS


def test_what_is_in_the_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json", "generation_config.json"):
        (folder / name).write_text("{}")
    for name in ("modeling_own.py", "README.md", "pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_text("not to be copied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "modeling_own.Config"}}))
    write_emulator(folder, SHARED, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "merges.txt", "model.safetensors", "plan.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.json",
    }  # fmt: skip
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["num_hidden_layers"] == 4
    assert "auto_map" not in written
    assert Plan.from_json((tmp_path / "out" / "plan.json").read_text()) == SHARED


def test_numbered_tensors_outside_the_blocks_stay(folder: Path, tmp_path: Path) -> None:
    tensors = stored_tensors(folder)
    others = ("heads.0.weight", "heads.5.weight", "model.layers.extra.0.weight", "model.layers_norm.3.weight")
    tensors |= dict.fromkeys(others, tensors["model.norm.weight"])
    (tmp_path / "more").mkdir()
    write_tensors(list(tensors.items()), tmp_path / "more")
    FAMILIES["llama"]().save_pretrained(tmp_path / "more")
    write_emulator(tmp_path / "more", SHARED, tmp_path / "out")
    assert set(others) <= stored_tensors(tmp_path / "out").keys()


def test_bytes_are_verbatim_in_any_number_format(tmp_path: Path) -> None:
    """NaN payloads and infinities survive; the reader of the safetensors package agrees with ours."""
    model = tiny_model("llama").to(torch.bfloat16)
    get_blocks(model)[5].mlp.up_proj.weight.data.view(torch.int16)[0, :4] = torch.tensor([0x7F81, -1, 0x7F80, -0x8000])
    model.save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", REMOVED, tmp_path / "out")
    original = load_file(tmp_path / "model" / "model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    for position, source in enumerate(REMOVED.kept):
        for name in (name for name in original if name.startswith(f"model.layers.{source}.")):
            twin = written[name.replace(f".{source}.", f".{position}.", 1)]
            assert torch.equal(twin.view(torch.int16), original[name].view(torch.int16))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as reader:
        assert reader.metadata() == {"format": "pt"}


def test_number_format_and_device_of_loading(folder: Path, tmp_path: Path) -> None:
    write_emulator(folder, SHARED, tmp_path / "out")
    emulator = load_emulator(tmp_path / "out", dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in emulator.parameters()} == {torch.bfloat16}
    assert not emulator.training


def test_weights_that_are_not_the_plans_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the plan is for 7 blocks, .* has 6"):
        write_emulator(folder, fixed_plan(7, (0, 6), (0,)), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(InputError, match=r"5 numbered blocks; numbered names: model.layers.\* \(6\)"):
        write_emulator(folder, fixed_plan(5, (0, 4), (0,)), tmp_path / "out")
    with pytest.raises(InputError, match=r"holds no emulator: it has no plan\.json"):
        load_emulator(folder)


def test_a_missing_weight_is_an_error_and_no_random_number(folder: Path, tmp_path: Path) -> None:
    write_emulator(folder, SHARED, tmp_path / "out")
    tensors = stored_tensors(tmp_path / "out")
    tensors.pop("model.layers.2.mlp.up_proj.weight")
    (tmp_path / "less").mkdir()
    write_tensors(list(tensors.items()), tmp_path / "less")
    (tmp_path / "less" / "model.safetensors").rename(tmp_path / "out" / "model.safetensors")
    with pytest.raises(InputError, match=r"1 weights of the model are not on disk, first model.layers.2.mlp.up_proj"):
        load_emulator(tmp_path / "out")
