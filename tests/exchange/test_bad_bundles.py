"""Bundles that must be refused, each by its number in docs/reference/threat-model.md; nothing is changed by them."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.artifacts.tuning import TUNED_FILE
from tasks.exchange import opening, receiving, tokenizer
from tasks.exchange.manifest import to_bytes
from tasks.exchange.opening import OpenedBundle
from tests.exchange.parties import (
    copied,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    receive_tuned,
    resign,
    seal_emulator,
    seal_tuned,
)
from tests.exchange.refusals import Exchanged, refuse_returned, refused, sealed_again, with_tensors


def test_b10_tuned_blocks_of_another_model(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = sealed_again(exchanged.clinic, copied(exchanged.returned, tmp_path / "bad"), base="0" * 64)
    refuse_returned(exchanged, bundle, "tuned blocks of another full model")


def test_b10_another_set_of_blocks(exchanged: Exchanged, tmp_path: Path) -> None:
    """Of the same model and shape: blocks 3 and 6 are in the emulator too, and were not to be tuned."""

    def renumber(tensors: dict[str, torch.Tensor]) -> None:
        others = {"0": "3", "11": "6"}
        for name in list(tensors):
            block, _, rest = name.partition(".")
            tensors[f"{others[block]}.{rest}"] = tensors.pop(name)

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, renumber), "tensors are missing, first 0")


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "socket", "folder"])
def test_b11_files_that_are_not_plain_files(exchanged: Exchanged, tmp_path: Path, kind: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    file = bundle / "weights.safetensors"
    file.rename(tmp_path / "elsewhere")
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "hard link":
        os.link(tmp_path / "elsewhere", file)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        home = Path.cwd()
        os.chdir(bundle)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("weights.safetensors")
        os.chdir(home)
    refuse_returned(exchanged, bundle, "weights.safetensors: not a regular file")


@pytest.mark.parametrize(
    "name", ["..x", "a\nb", "weights.safetensors\u200b", "w" * 250, "WEIGHTS.safetensors", "weights-1.safetensors"]
)
def test_b12_illegal_names(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    (bundle / name).write_bytes(b"x")
    refuse_returned(exchanged, bundle, "unexpected file")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "0.x\0y", "x" * 300])
def test_b12_a_tensor_with_the_name_of_a_path(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    inside = tmp_path / "a/b"
    inside.mkdir(parents=True)
    bundle = with_tensors(exchanged, inside, lambda tensors: tensors.update({name: torch.ones(1)}))
    refuse_returned(exchanged, bundle, "1 unexpected tensors")
    assert not Path("/etc/x").exists()
    assert {path.name for path in (*tmp_path.iterdir(), *(tmp_path / "a").iterdir())} == {"a", "b"}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\0b", "x" * 300, "weights.s\u0430fetensors"])
def test_b12_a_name_in_the_manifest_that_no_bundle_has(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    sealed_again(exchanged.clinic, bundle, files=files | {name: next(iter(files.values()))})
    refuse_returned(exchanged, bundle, r"manifest\.json: files: '.*' is not a name of the format")


@pytest.mark.parametrize("name", [".gitattributes", "modeling_x.py", "config.json", "generation_config.json"])
def test_b13_files_of_other_programs(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    bundle = copied(exchanged.emulator, tmp_path / "bad")
    (bundle / name).write_text('{"auto_map": {"AutoModelForCausalLM": "modeling_x.Own"}}')
    with refused(exchanged.clinic, "unexpected file"):
        receive_emulator(exchanged.clinic, bundle)


def test_b13_a_folder_of_git(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    (bundle / ".git").mkdir()
    refuse_returned(exchanged, bundle, "unexpected file '.git'")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_b14_archives_are_not_unpacked(exchanged: Exchanged, tmp_path: Path, kind: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), kind, exchanged.returned))
    refuse_returned(exchanged, archive, "expected a folder, found a file")
    bundle = copied(exchanged.returned, tmp_path / "bad")
    shutil.copy(archive, bundle / f"weights.{kind}")
    refuse_returned(exchanged, bundle, "unexpected file")
    refuse_returned(exchanged, tmp_path / "none", "expected a folder, found nothing")


def test_b15_edited_and_swapped_files(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "edited")
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"sequence": 1', '"sequence": 9'))
    refuse_returned(exchanged, bundle, "no trusted key has signed this manifest")
    bundle = copied(exchanged.returned, tmp_path / "flipped")
    content = bytearray((bundle / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(content)
    refuse_returned(exchanged, bundle, "weights.safetensors: digest: expected")
    bundle, other = copied(exchanged.returned, tmp_path / "swapped"), tmp_path / "other"
    other.mkdir()
    tensors = load_file(bundle / "weights.safetensors")
    save_file({name: tensor + 0.5 for name, tensor in tensors.items()}, other / "weights.safetensors")
    assert (other / "weights.safetensors").stat().st_size == (bundle / "weights.safetensors").stat().st_size
    shutil.copy(other / "weights.safetensors", bundle / "weights.safetensors")
    refuse_returned(exchanged, bundle, "weights.safetensors: digest: expected")


def test_b15_files_swapped_between_two_valid_bundles(tmp_path: Path) -> None:
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(tmp_path / "made"), tmp_path / "emulator")
    opened = receive_emulator(clinic, tmp_path / "emulator")
    first, second = tmp_path / "first", tmp_path / "second"
    tuning = make_tuning(tmp_path / "tuning")
    seal_tuned(clinic, acme, opened, tuning, first)
    state = load_file(tuning / TUNED_FILE)
    save_file({name: tensor + 0.1 for name, tensor in state.items()}, tuning / TUNED_FILE)
    seal_tuned(clinic, acme, opened, tuning, second)
    mixed = copied(first, tmp_path / "mixed")
    shutil.copy(second / "weights.safetensors", mixed / "weights.safetensors")
    with refused(acme, "weights.safetensors: digest: expected"):
        receive_tuned(acme, mixed, asked)
    for name in ("manifest.json", "manifest.sig"):
        mixed = copied(first, tmp_path / f"mixed-{name}")
        shutil.copy(second / name, mixed / name)
        with refused(acme, "digest: expected|no trusted key has signed"):
            receive_tuned(acme, mixed, asked)


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 64], ids=["empty", "short", "wrong"])
def test_b16_signatures(exchanged: Exchanged, tmp_path: Path, content: bytes) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    (bundle / "manifest.sig").write_bytes(content)
    refuse_returned(exchanged, bundle, "manifest.sig: signature")


def test_b16_no_signature_and_one_of_the_other_role(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "none")
    (bundle / "manifest.sig").unlink()
    refuse_returned(exchanged, bundle, "manifest.sig is missing")
    bundle = copied(exchanged.returned, tmp_path / "own")
    resign(bundle, exchanged.acme, (bundle / "manifest.json").read_bytes())
    refuse_returned(exchanged, bundle, "no trusted key has signed this manifest")
    with refused(exchanged.acme, "expected a bundle of kind tuned_blocks|no trusted key"):
        receive_tuned(exchanged.acme, exchanged.emulator, exchanged.asked)


def test_b19_a_file_that_changes_after_its_check_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    bundle, copy_files = tmp_path / "emulator", opening.copy_files
    seal_emulator(acme, clinic, make_emulator(tmp_path / "made"), bundle)
    # Cloned, since a loaded file may be mapped, and it is cut short below.
    valid = {name: tensor.clone() for name, tensor in load_file(bundle / "weights.safetensors").items()}

    def changing(*given: Any, **named: Any) -> None:
        copy_files(*given, **named)
        for name in ("weights.safetensors", "tokenizer.json", "manifest.json"):
            (bundle / name).write_bytes(b"other")

    monkeypatch.setattr(opening, "copy_files", changing)
    opened = receive_emulator(clinic, bundle)
    assert (bundle / "weights.safetensors").read_bytes() == b"other"
    (file,) = opened.folder.glob("*.safetensors")
    assert all(torch.equal(tensor, valid[name]) for name, tensor in load_file(file).items())


def test_b20_a_file_that_is_cut_while_it_is_read(
    exchanged: Exchanged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copied(exchanged.returned, tmp_path / "cut")
    read = os.read

    def cutting(handle: int, size: int) -> bytes:
        part = read(handle, min(size, 4096))
        os.truncate(bundle / "weights.safetensors", 5000)
        return part

    def copy(*given: Any) -> None:
        monkeypatch.setattr(os, "read", cutting)
        try:
            copy_files(*given)
        finally:
            monkeypatch.setattr(os, "read", read)

    copy_files = receiving.copy_files
    monkeypatch.setattr("tasks.exchange.opening.copy_files", copy)
    refuse_returned(exchanged, bundle, "weights.safetensors: digest: expected .* found 5,000")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"version": 2}, "format version 2; this program reads up to 1"),
        ({"format": "other"}, "not a bundle's manifest"),
        ({"kind": "other"}, "expected kind emulator or tuned_blocks"),
        ({"sequence": 0}, "sequence: "),
        ({"sequence": "1"}, "sequence: "),
        ({"expires": "2020-01-01T00:00:00Z"}, "expires: not after created"),
        ({"expires": "9999-12-31T23:59:59-12:00"}, "more than 3660 days after it"),
        ({"created": "1999-01-01T00:00:00Z"}, "not a date of this program"),
        ({"method": {"method": "blocks"}}, "method: variant: expected an object with method, trained"),
        ({"method": {"method": "adapter", "trained": "tuned", "adapter_size": 4}}, "takes back blocks, lora only"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_b21_manifests_that_are_not_of_the_schema(
    exchanged: Exchanged, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    bundle = sealed_again(exchanged.clinic, copied(exchanged.returned, tmp_path / "bad"), **change)
    refuse_returned(exchanged, bundle, reason)


def test_b04_a_name_twice_in_the_manifest(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    text = (bundle / "manifest.json").read_text().replace("{", '{"sequence": 9,', 1)
    resign(bundle, exchanged.clinic, text.encode())
    refuse_returned(exchanged, bundle, r"manifest\.json: duplicate key")


def test_b21_deep_large_and_odd_json(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    for content, reason in (
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 1}', "duplicate key"),
    ):
        resign(bundle, exchanged.clinic, content)
        refuse_returned(exchanged, bundle, reason)
    with open(bundle / "manifest.json", "ab") as file:
        file.truncate(1 << 30)
    refuse_returned(exchanged, bundle, r"manifest\.json: 1,073,741,824 bytes, more than the 1,048,576")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("base", "num_blocks"), 0, "base.num_blocks"),
        (("base", "num_blocks"), 1 << 40, "base.num_blocks"),
        (("plan", "kept"), [0, 12], "plan: kept"),
        (("plan", "tuned"), [1], "tuned block 1 is not kept"),
        (("architecture", "family"), "attacker", "family 'attacker' is not one"),
        (("architecture", "config", "auto_map"), {"AutoModel": "x"}, "not a setting of family"),
        (("architecture", "config", "_attn_implementation"), "attacker/kernel", "not a setting of family"),
        (("architecture", "config", "num_hidden_layers"), 1 << 30, "num_hidden_layers is out of range"),
        (("architecture", "config", "num_hidden_layers"), 5, "blocks|numbered"),
        (("architecture", "config", "hidden_size"), 0, "architecture: |cannot be used"),
        (("architecture", "config", "activation_function"), "attacker", "no network can be built"),
        (("compression",), {"method": 1e999}, "too large|JSON|Infinity"),
        (("architecture", "config", "vocab_size"), 1 << 40, "out of range"),
        (("tokenizer", "context"), 0, "tokenizer.context"),
    ],
    ids=str,
)
def test_b22_dimensions_and_settings_out_of_bounds(
    exchanged: Exchanged, tmp_path: Path, place: tuple[str, ...], value: Any, reason: str
) -> None:
    bundle = copied(exchanged.emulator, tmp_path / "bad")
    values = json.loads(to_bytes(exchanged.asked))
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    # Another bundle: the valid one was received already.
    values |= {"id": "e" * 32, "sequence": 7}
    resign(bundle, exchanged.acme, json.dumps(values).encode())
    with refused(exchanged.clinic, reason):
        receive_emulator(exchanged.clinic, bundle)


def test_b16_a_party_cannot_take_the_name_of_another(exchanged: Exchanged, tmp_path: Path) -> None:
    values = json.loads((exchanged.returned / "manifest.json").read_text())
    sender = {**values["sender"], "name": "acme"}
    bundle = sealed_again(exchanged.clinic, copied(exchanged.returned, tmp_path / "bad"), sender=sender)
    refuse_returned(exchanged, bundle, "signed by clinic, but it names another sender")


@pytest.mark.parametrize("place", ["vocabulary", "post-processor"])
def test_b22_a_tokenizer_with_ids_beyond_the_vocabulary(exchanged: Exchanged, tmp_path: Path, place: str) -> None:
    bundle = copied(exchanged.emulator, tmp_path / "bad")
    content = json.loads((bundle / "tokenizer.json").read_text())
    size = json.loads((bundle / "manifest.json").read_text())["architecture"]["config"]["vocab_size"]
    if place == "vocabulary":
        content["model"]["vocab"]["beyond"] = size
    else:
        tokens = [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        special = {"<x>": {"id": "<x>", "ids": [size], "tokens": ["<x>"]}}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": tokens,
            "pair": tokens,
            "special_tokens": special,
        }
    with refused(exchanged.clinic, f"token id {size}, but the model's vocabulary ends at {size - 1}"):
        receive_emulator(exchanged.clinic, with_tokenizer(exchanged, bundle, json.dumps(content)))


def test_b22_special_tokens_that_the_tokenizer_lacks_or_that_are_beyond_the_vocabulary(
    exchanged: Exchanged, tmp_path: Path
) -> None:
    values = json.loads((exchanged.emulator / "manifest.json").read_text())
    size = values["architecture"]["config"]["vocab_size"]
    content = json.loads((exchanged.emulator / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": size, "content": "<pad>\0", "special": True, **flags})
    special = values["tokenizer"]["special_tokens"]
    for number, (token, reason) in enumerate(
        (("<none>", "lacks a special token"), ("<pad>\0", f"token id {size}, but the model's vocabulary ends"))
    ):
        bundle = with_tokenizer(exchanged, copied(exchanged.emulator, tmp_path / str(number)), json.dumps(content))
        changed = {
            "id": "c" * 32,
            "sequence": 9,
            "tokenizer": values["tokenizer"] | {"special_tokens": special | {"pad_token": token}},
        }
        with refused(exchanged.clinic, reason):
            receive_emulator(exchanged.clinic, sealed_again(exchanged.acme, bundle, **changed))


def test_b22_an_added_token_beyond_the_vocabulary_is_taken(tmp_path: Path) -> None:
    """As models have it whose tokenizer is one of a larger family, such as Gemma 3: no row has this token."""
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(tmp_path / "made"), tmp_path / "emulator")
    size = asked.architecture.config["vocab_size"]
    content = json.loads((tmp_path / "emulator/tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": size, "content": "<image>", "special": True, **flags})
    (tmp_path / "emulator/tokenizer.json").write_text(json.dumps(content))
    sealed_again(acme, tmp_path / "emulator")
    assert receive_emulator(clinic, tmp_path / "emulator").manifest.id == asked.id


def with_tokenizer(exchanged: Exchanged, bundle: Path, content: str) -> Path:
    """Replace the tokenizer of an emulator's bundle, and sign another manifest with its digest as the owner would."""
    (bundle / "tokenizer.json").write_text(content)
    return sealed_again(exchanged.acme, bundle, id="d" * 32, sequence=8)


def test_b23_tokenizers_that_cannot_be_loaded_or_take_too_long(
    exchanged: Exchanged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = json.loads((exchanged.emulator / "tokenizer.json").read_text())
    # Backtracks for every way to cut a run of equal letters.
    bomb = {"type": "Split", "pattern": {"Regex": "(a+)+$b"}, "behavior": "Isolated", "invert": False}
    monkeypatch.setattr(tokenizer, "PROBE_SECONDS", 2)
    contents = (
        ("{}", "not a tokenizer that can be loaded"),
        (json.dumps({**valid, "model": {"type": "attacker/code"}}), "not a tokenizer that can be loaded"),
        (json.dumps({**valid, "pre_tokenizer": bomb}), "too long|can be loaded"),
    )
    for number, (content, reason) in enumerate(contents):
        bundle = with_tokenizer(exchanged, copied(exchanged.emulator, tmp_path / str(number)), content)
        with refused(exchanged.clinic, reason):
            receive_emulator(exchanged.clinic, bundle)


def test_the_valid_bundle_is_accepted(exchanged: Exchanged, tmp_path: Path) -> None:
    """After all others: it is in the ledger then."""
    bundle = sealed_again(exchanged.clinic, copied(exchanged.returned, tmp_path / "good"))
    assert isinstance(receive_tuned(exchanged.acme, bundle, exchanged.asked), OpenedBundle)
