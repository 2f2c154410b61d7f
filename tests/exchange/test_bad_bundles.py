"""Bundles that must be refused, each by its number in docs/reference/threat-model.md; nothing is changed by them."""

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import RefusedError
from tasks.exchange import opening, receiving, tokenizer
from tasks.exchange.manifest import EmulatorManifest, to_bytes
from tasks.exchange.opening import OpenedBundle
from tasks.exchange.sealing import file_facts
from tests.exchange.parties import (
    Party,
    copied,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    receive_tuned,
    resign,
    seal_emulator,
    seal_tuned,
    tree_digest,
)


@dataclass(frozen=True)
class Exchanged:
    """Two parties, a valid emulator and valid tuned blocks; neither was accepted yet at its recipient's."""

    acme: Party
    clinic: Party
    emulator: Path
    asked: EmulatorManifest
    returned: Path


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> Exchanged:
    root = tmp_path_factory.mktemp("exchanged")
    acme, clinic = make_parties(root / "homes", "acme", "clinic")
    asked = seal_emulator(acme, clinic, make_emulator(root / "made"), root / "emulator")
    opened = receive_emulator(clinic, root / "emulator")
    seal_tuned(clinic, acme, opened, make_tuning(root / "tuning"), root / "returned")
    return Exchanged(acme, clinic, root / "emulator", asked, root / "returned")


@contextmanager
def refused(party: Party, reason: str) -> Iterator[None]:
    """Expect a refusal in one line with a reason, after which the home of the party is as before."""
    party.place.received.mkdir(parents=True, exist_ok=True)
    before = tree_digest(party.home)
    with pytest.raises(RefusedError, match=reason) as found:
        yield
    assert found.value.exit_code == 3
    assert str(found.value).startswith("refused ")
    assert "\n" not in str(found.value)
    assert tree_digest(party.home) == before


def refuse_returned(exchanged: Exchanged, bundle: Path, reason: str) -> None:
    with refused(exchanged.acme, reason):
        receive_tuned(exchanged.acme, bundle, exchanged.asked)


def sealed_again(exchanged: Exchanged, bundle: Path, **changed: Any) -> Path:
    """Sign a damaged bundle of tuned blocks anew, as a dishonest data owner would, with digests that fit."""
    values = json.loads((bundle / "manifest.json").read_text())
    files = {name: facts for name, facts in file_facts(bundle).items() if not name.startswith("manifest.")}
    values |= {"files": {name: facts.model_dump() for name, facts in files.items()}} | changed
    resign(bundle, exchanged.clinic, json.dumps(values).encode())
    return bundle


def with_tensors(exchanged: Exchanged, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Return a bundle of tuned blocks with other tensors, properly signed."""
    bundle = copied(exchanged.returned, tmp_path / "bad")
    tensors = load_file(bundle / "weights.safetensors")
    change(tensors)
    save_file(tensors, bundle / "weights.safetensors", metadata={"format": "pt"})
    return sealed_again(exchanged, bundle)


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin", "weights.pkl"])
def test_b01_a_pickle_is_not_a_file_of_a_bundle(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    (bundle / "weights.safetensors").rename(bundle / name)
    refuse_returned(exchanged, bundle, f"unexpected file '{name}'")


def test_b01_a_pickle_in_the_place_of_the_weights_is_never_run(exchanged: Exchanged, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    bundle = copied(exchanged.returned, tmp_path / "bad")
    (bundle / "weights.safetensors").write_bytes(pickle.dumps(Attack()) + b" " * 4096)
    refuse_returned(exchanged, sealed_again(exchanged, bundle), "damaged: a header of")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["truncated", "longer", "empty", "header"])
def test_b02_damaged_weights(exchanged: Exchanged, tmp_path: Path, how: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    file = bundle / "weights.safetensors"
    content = file.read_bytes()
    changed = {"truncated": content[:-9], "longer": content + b"x", "empty": b"", "header": b"\xff" * 8 + content[8:]}
    file.write_bytes(changed[how])
    refuse_returned(exchanged, sealed_again(exchanged, bundle), "weights.safetensors: damaged")


def test_b04_a_name_twice_in_the_header(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    content = (bundle / "weights.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    name = next(name for name in json.loads(header) if name != "__metadata__")
    entry = json.dumps({name: json.loads(header)[name]}).encode()
    text = header[:-1] + b", " + entry[1:]
    (bundle / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    refuse_returned(exchanged, sealed_again(exchanged, bundle), "header: duplicate key")


def test_b05_missing_extra_and_renamed_tensors(exchanged: Exchanged, tmp_path: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["0.other"] = tensors.pop(next(iter(tensors)))

    changes: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
        "1 tensors are missing": lambda tensors: tensors.pop(next(iter(tensors))),
        "1 unexpected tensors, first '3.x'": lambda tensors: tensors.update({"3.x": torch.ones(1)}),
        "tensors are missing, first 0": rename,
    }
    for number, (reason, change) in enumerate(changes.items()):
        (tmp_path / str(number)).mkdir()
        refuse_returned(exchanged, with_tensors(exchanged, tmp_path / str(number), change), reason)


@pytest.mark.parametrize(
    "changed",
    [
        lambda tensor: tensor.double(),
        lambda tensor: tensor.to(torch.int8),
        lambda tensor: tensor[:0].clone(),
        lambda tensor: tensor.flatten()[1:].clone(),
    ],
    ids=["F64", "I8", "empty", "shape"],
)
def test_b06_other_shapes_and_formats(
    exchanged: Exchanged, tmp_path: Path, changed: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(iter(tensors))
        tensors[name] = changed(tensors[name])

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, change), r"weights\.safetensors: 0\..*: expected F32")


def test_b07_a_huge_file_is_refused_before_it_is_read(
    exchanged: Exchanged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    with open(bundle / "weights.safetensors", "ab") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(opening, "copy_files", lambda *_: pytest.fail("read"))
    refuse_returned(exchanged, bundle, r"weights\.safetensors: expected .* bytes, found 1,099,511,627,776")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_b08_values_that_are_not_finite(exchanged: Exchanged, tmp_path: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).view(-1)[3] = value

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, change), "1 of .* values are not finite")


def test_b08_a_flood_of_subnormal_values(exchanged: Exchanged, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        max(tensors.values(), key=torch.Tensor.numel).fill_(1e-40)

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, change), "values are subnormal")


def test_b10_tuned_blocks_of_another_model(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = sealed_again(exchanged, copied(exchanged.returned, tmp_path / "bad"), base="0" * 64)
    refuse_returned(exchanged, bundle, "tuned blocks of another full model")


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


@pytest.mark.parametrize("name", [".gitattributes", "modeling_x.py", "config.json", "generation_config.json"])
def test_b13_files_of_other_programs(exchanged: Exchanged, tmp_path: Path, name: str) -> None:
    bundle = copied(exchanged.emulator, tmp_path / "bad")
    (bundle / name).write_text("{}")
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
    bundle = sealed_again(exchanged, copied(exchanged.returned, tmp_path / "bad"), **change)
    refuse_returned(exchanged, bundle, reason)


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
    bundle = sealed_again(exchanged, copied(exchanged.returned, tmp_path / "bad"), sender=sender)
    refuse_returned(exchanged, bundle, "signed by clinic, but it names another sender")


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
        bundle = copied(exchanged.emulator, tmp_path / str(number))
        (bundle / "tokenizer.json").write_text(content)
        values = json.loads((bundle / "manifest.json").read_text())
        files = {name: facts for name, facts in file_facts(bundle).items() if not name.startswith("manifest.")}
        described = {name: facts.model_dump() for name, facts in files.items()}
        changed = {**values, "files": described, "id": "d" * 32, "sequence": 8}
        resign(bundle, exchanged.acme, json.dumps(changed).encode())
        with refused(exchanged.clinic, reason):
            receive_emulator(exchanged.clinic, bundle)


def test_b03_shapes_that_only_look_like_whole_numbers(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    content = (bundle / "weights.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name, entry in header.items() if name != "__metadata__")
    header[name]["shape"] = [float(size) for size in header[name]["shape"]]
    text = json.dumps(header).encode()
    (bundle / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    refuse_returned(exchanged, sealed_again(exchanged, bundle), "expected F32")


def test_the_valid_bundle_is_accepted(exchanged: Exchanged, tmp_path: Path) -> None:
    """After all others: it is in the ledger then."""
    bundle = sealed_again(exchanged, copied(exchanged.returned, tmp_path / "good"))
    assert isinstance(receive_tuned(exchanged.acme, bundle, exchanged.asked), OpenedBundle)
