"""Emulator folders: the same numbers as surgery in memory, each block once, plain folders, small memory, no pickles."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tasks.core.blocks import get_blocks, with_layout
from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.core.plan import Plan, fixed_plan
from tasks.store import tensor_files
from tasks.store.tensor_files import StoredTensor, read_header, stored_tensors, write_tensors
from tasks.store.weights import load_emulator, read_tensors, save_expanded, to_safetensors, write_emulator
from tests.core.families import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

REMOVED = fixed_plan(NUM_BLOCKS, (0, 2, 3, 5), (0, 3), share=None)
SHARED = fixed_plan(NUM_BLOCKS, (0, 2, 3, 5), (0, 3), share="all")


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """[2, 12, vocabulary] after a pass with the cache, checked against one without."""
    with_cache = model(token_ids()).logits
    assert torch.equal(with_cache, model(token_ids(), use_cache=False).logits)
    return with_cache


def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


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
        assert torch.equal(logits(plain(out)), logits(with_layout(model, REMOVED))), "kept blocks in order"
        emulator = load_emulator(out)
        assert torch.equal(logits(emulator), logits(with_layout(model, plan)))
        save_expanded(out, tmp_path / f"{plan.share} expanded")
        expanded = plain(tmp_path / f"{plan.share} expanded")
        assert len(get_blocks(expanded)) == len(plan.layout)
        assert torch.equal(logits(expanded), logits(emulator))


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


def test_shards_in_and_shards_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(folder).save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    write_emulator(folder, SHARED, tmp_path / "one")
    monkeypatch.setattr(tensor_files.write_tensors, "__defaults__", (30_000,))
    write_emulator(tmp_path / "sharded", SHARED, tmp_path / "many")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(file.stat().st_size < 32_000 for file in shards)
    assert torch.equal(logits(plain(tmp_path / "many")), logits(plain(tmp_path / "one")))
    assert stored_tensors(tmp_path / "many").keys() == stored_tensors(tmp_path / "one").keys()


def test_reading_some_tensors(folder: Path) -> None:
    names = ["model.layers.3.mlp.up_proj.weight", "lm_head.weight"]
    read = read_tensors(folder, names)
    assert list(read) == names
    state = plain(folder).state_dict()
    assert all(torch.equal(read[name], state[name]) for name in names)
    with pytest.raises(InputError, match=r"has no tensor h.0.weight; it has lm_head.weight"):
        read_tensors(folder, ["h.0.weight"])


def test_number_format_and_device_of_loading(folder: Path, tmp_path: Path) -> None:
    write_emulator(folder, SHARED, tmp_path / "out")
    emulator = load_emulator(tmp_path / "out", dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in emulator.parameters()} == {torch.bfloat16}
    assert not emulator.training


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama"])
def test_pickled_weights_are_converted(name: str, tmp_path: Path) -> None:
    """One file or shards, tied or not: the same logits, from safetensors only."""
    model = tiny_model(name)
    (tmp_path / "one").mkdir()
    model.config.save_pretrained(tmp_path / "one")
    torch.save(model.state_dict(), tmp_path / "one" / "pytorch_model.bin")
    to_safetensors(tmp_path / "one", tmp_path / "converted")
    assert torch.equal(logits(plain(tmp_path / "converted")), logits(model))

    names = list(model.state_dict())
    weight_map = {key: f"pytorch_model-0000{1 + (at > 9)}-of-00002.bin" for at, key in enumerate(names)}
    (tmp_path / "two").mkdir()
    model.config.save_pretrained(tmp_path / "two")
    for file in set(weight_map.values()):
        part = {key: value for key, value in model.state_dict().items() if weight_map[key] == file}
        torch.save(part, tmp_path / "two" / file, _use_new_zipfile_serialization=False)
    (tmp_path / "two" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    to_safetensors(tmp_path / "two", tmp_path / "from shards")
    assert torch.equal(logits(plain(tmp_path / "from shards")), logits(model))


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


def test_weights_that_are_not_the_plans_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the plan is for 7 blocks, .* has 6"):
        write_emulator(folder, fixed_plan(7, (0, 6), (0,)), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(InputError, match=r"5 numbered blocks; numbered names: model.layers.\* \(6\)"):
        write_emulator(folder, fixed_plan(5, (0, 4), (0,)), tmp_path / "out")
    with pytest.raises(InputError, match=r"is no emulator: it has no plan.json"):
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
