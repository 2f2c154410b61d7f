"""Weights that must be refused, each by its number in docs/reference/threat-model.md."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.exchange import opening
from tests.exchange.parties import (
    copied,
)
from tests.exchange.refusals import Exchanged, refuse_returned, sealed_again, with_tensors


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
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "damaged: a header of")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["truncated", "longer", "empty", "header"])
def test_b02_damaged_weights(exchanged: Exchanged, tmp_path: Path, how: str) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    file = bundle / "weights.safetensors"
    content = file.read_bytes()
    changed = {"truncated": content[:-9], "longer": content + b"x", "empty": b"", "header": b"\xff" * 8 + content[8:]}
    file.write_bytes(changed[how])
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "weights.safetensors: damaged")


def test_b03_shapes_that_only_look_like_whole_numbers(exchanged: Exchanged, tmp_path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        first_entry(header)["shape"] = [float(size) for size in first_entry(header)["shape"]]

    bundle = with_header(copied(exchanged.returned, tmp_path / "bad"), change)
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "expected F32")


def with_header(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the header of a bundle's weights, and leave their values as they are."""
    file = bundle / "weights.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return bundle


def first_entry(header: dict[str, Any]) -> dict[str, Any]:
    """Return what a header says of its first tensor."""
    return next(entry for name, entry in header.items() if name != "__metadata__")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_offsets", lambda offsets: [begin + 4 for begin in offsets]),
        ("data_offsets", lambda offsets: [offsets[0], offsets[1] + 4]),
        ("data_offsets", lambda offsets: [0, 1 << 63]),
        ("shape", lambda shape: [*shape, 2]),
        ("shape", lambda shape: [1 << 62, 4]),
    ],
    ids=["overlapping", "too long", "overflow", "more entries than bytes", "a product that overflows"],
)
def test_b03_tensors_that_overlap_and_shapes_that_do_not_fit(
    exchanged: Exchanged, tmp_path: Path, field: str, value: Callable[[list[int]], list[int]]
) -> None:
    def change(header: dict[str, Any]) -> None:
        entry = first_entry(header)
        entry[field] = value(entry[field])

    bundle = with_header(copied(exchanged.returned, tmp_path / "bad"), change)
    refuse_returned(
        exchanged, sealed_again(exchanged.clinic, bundle), r"weights\.safetensors: (damaged|.*expected F32)"
    )


def test_b04_a_name_twice_in_the_header(exchanged: Exchanged, tmp_path: Path) -> None:
    bundle = copied(exchanged.returned, tmp_path / "bad")
    content = (bundle / "weights.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    name = next(name for name in json.loads(header) if name != "__metadata__")
    entry = json.dumps({name: json.loads(header)[name]}).encode()
    text = header[:-1] + b", " + entry[1:]
    (bundle / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "header: duplicate key")


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


def test_b07_hundreds_of_thousands_of_tensors_and_headers_of_100_mb(exchanged: Exchanged, tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    bundle = with_header(
        copied(exchanged.returned, tmp_path / "many"),
        lambda header: header.update({f"0.{number}": empty for number in range(300_000)}),
    )
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "damaged: a header of")
    bundle = copied(exchanged.returned, tmp_path / "long")
    with (bundle / "weights.safetensors").open("r+b") as file:
        file.write((100 << 20).to_bytes(8, "little"))
        file.truncate(101 << 20)
    refuse_returned(exchanged, sealed_again(exchanged.clinic, bundle), "damaged: a header of 104,857,600 bytes")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_b08_values_that_are_not_finite(exchanged: Exchanged, tmp_path: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).view(-1)[3] = value

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, change), "1 of .* values are not finite")


def test_b08_a_flood_of_subnormal_values(exchanged: Exchanged, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        max(tensors.values(), key=torch.Tensor.numel).fill_(1e-40)

    refuse_returned(exchanged, with_tensors(exchanged, tmp_path, change), "values are subnormal")
