"""Files of artifacts: what was written is read again, and files of another kind or damaged ones are refused."""

import json
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.artifacts.files import TensorFile, read_json, read_object
from tasks.core.errors import InputError


class Norms(TypedDict):
    """An example."""

    norm: Annotated["torch.Tensor", "float32 [N+1]"]
    pairs: Annotated["torch.Tensor", "float32 [N, N]"]
    place: NotRequired[Annotated["torch.Tensor", "int64 [N, 2]"]]


FILE = TensorFile("norms.safetensors", "norms of states", Norms)
GIVEN = {"norm": torch.arange(4.0), "pairs": torch.arange(9.0).view(3, 3).T}


def test_what_was_written_is_read_in_both_frameworks(tmp_path: Path) -> None:
    FILE.write(tmp_path, GIVEN)
    for name, values in FILE.read(tmp_path).items():
        assert isinstance(values, np.ndarray)
        np.testing.assert_array_equal(values, GIVEN[name].numpy())
    found = FILE.read(tmp_path, "torch")
    assert found.keys() == GIVEN.keys()
    assert all(torch.equal(found[name], values) for name, values in GIVEN.items())


def test_the_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    FILE.write(tmp_path, GIVEN)
    save_file({name: values.contiguous() for name, values in GIVEN.items()}, tmp_path / "plain")
    assert (tmp_path / FILE.name).read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": None}, "the tensor 'pairs' is missing"),
        ({"pears": torch.ones(1)}, "the tensor 'pears' is unknown"),
        ({"pairs": torch.ones(3, 2)}, r"'pairs' is float32 \[3, 2\], expected float32 \[N, N\]"),
        ({"pairs": torch.ones(4, 4)}, r"'pairs' is float32 \[4, 4\], expected float32 \[N, N\]"),
        ({"place": torch.ones(3, 3, dtype=torch.int64)}, r"expected int64 \[N, 2\]"),
        ({"place": torch.ones(3, 2)}, r"'place' is float32 \[3, 2\], expected int64 \[N, 2\]"),
    ],
)
def test_another_content_is_neither_written_nor_read(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {name: values.contiguous() for name, values in (GIVEN | changes).items() if values is not None}
    with pytest.raises(AssertionError, match=message):
        FILE.write(tmp_path, tensors)
    assert not list(tmp_path.iterdir())
    save_file(tensors, tmp_path / FILE.name)
    with pytest.raises(InputError, match=f"{message}.*; this file does not hold norms of states"):
        FILE.read(tmp_path)


def test_another_number_format_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="'norm' is float64"):
        FILE.write(tmp_path, GIVEN | {"norm": torch.arange(4.0, dtype=torch.float64)})


def test_missing_and_damaged_files_of_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no norms of states: it has no norms\.safetensors"):
        FILE.read(tmp_path)
    (tmp_path / FILE.name).write_bytes(b"\x00" * 9)
    for framework in ("numpy", "torch"):
        with pytest.raises(InputError, match=r"norms\.safetensors is not a valid safetensors file"):
            FILE.read(tmp_path, framework)


def test_missing_and_damaged_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no facts: it has no facts\.json"):
        read_object(tmp_path, "facts.json", "facts")
    path = tmp_path / "facts.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"facts\.json is not valid JSON"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"facts\.json is not valid JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected one JSON object, found list"):
        read_object(tmp_path, "facts.json", "facts")
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match="the field 'b' is missing; this file does not hold facts"):
        read_object(tmp_path, "facts.json", "facts", ["a", "b"])
    assert read_object(tmp_path, "facts.json", "facts", ["a"]) == {"a": 1}
