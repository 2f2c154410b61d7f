"""Weights of a stranger: the header against what was expected, and every value."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.core.errors import RefusedError
from tasks.exchange.manifest import TensorFacts
from tasks.exchange.weights import Seen, WeightsCheck

EXPECTED = {"0.a": TensorFacts(dtype="F32", shape=(3, 5)), "1.b": TensorFacts(dtype="BF16", shape=(7,))}


def stored(tmp_path: Path, **changed: torch.Tensor) -> bytes:
    tensors = {"0.a": torch.ones(3, 5), "1.b": torch.ones(7, dtype=torch.bfloat16)} | {
        name.replace("_", "."): tensor for name, tensor in changed.items()
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return (tmp_path / "x.safetensors").read_bytes()


def check(content: bytes, expected: dict[str, TensorFacts] | None = EXPECTED, step: int = 1 << 20) -> WeightsCheck:
    found = WeightsCheck("weights.safetensors", len(content), expected)
    for start in range(0, len(content), step):
        found.feed(content[start : start + step])
    found.finish()
    return found


def with_header(content: bytes, change: dict | None = None, text: bytes | None = None) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    new = text if text is not None else json.dumps(header | (change or {})).encode()
    return len(new).to_bytes(8, "little") + new + content[8 + length :]


@pytest.mark.parametrize("step", [1, 3, 7, 64, 1 << 20])
def test_files_are_read_in_parts_of_any_size(tmp_path: Path, step: int) -> None:
    values = check(stored(tmp_path), step=step).values
    assert values == {"0.a": Seen(15, 0, 0), "1.b": Seen(7, 0, 0)}


@pytest.mark.parametrize("step", [3, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_counted_by_tensor(
    tmp_path: Path, dtype: torch.dtype, value: float, step: int
) -> None:
    tensor = torch.ones(1000, dtype=dtype)
    tensor[[5, 999]] = value
    codes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    expected = {"0.a": EXPECTED["0.a"], "1.b": TensorFacts(dtype=codes[dtype], shape=(1000,))}  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=r"1\.b: 2 of 1000 values are not finite"):
        check(stored(tmp_path, **{"1_b": tensor}), expected, step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_flood_of_subnormal_values_is_refused_and_zeros_are_not(tmp_path: Path, dtype: torch.dtype) -> None:
    codes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    expected = {"0.a": EXPECTED["0.a"], "1.b": TensorFacts(dtype=codes[dtype], shape=(8000,))}  # type: ignore[arg-type]
    tensor = torch.zeros(8000, dtype=dtype)
    assert check(stored(tmp_path, **{"1_b": tensor}), expected).values["1.b"].subnormal == 0
    tiny = torch.finfo(dtype).tiny
    tensor[:10] = tiny
    assert check(stored(tmp_path, **{"1_b": tensor}), expected).values["1.b"].subnormal == 0
    tensor[:81] = torch.tensor(-tiny / 2, dtype=dtype)
    with pytest.raises(RefusedError, match=r"1\.b: 81 of 8000 values are subnormal"):
        check(stored(tmp_path, **{"1_b": tensor}), expected)


def test_a_bias_that_hardly_moved_from_zero_has_subnormal_values_and_is_taken(tmp_path: Path) -> None:
    expected = {"0.a": EXPECTED["0.a"], "1.b": TensorFacts(dtype="F32", shape=(128,))}
    assert check(stored(tmp_path, **{"1_b": torch.full((128,), 0.5).index_fill(0, torch.arange(64), 1e-40)}), expected)


@pytest.mark.parametrize("serving", [torch.float16, torch.bfloat16])
def test_b08_values_are_finite_in_the_format_in_which_they_are_used(tmp_path: Path, serving: torch.dtype) -> None:
    code = {torch.float16: "F16", torch.bfloat16: "BF16"}[serving]
    # Around the first number that is rounded to infinity.
    middle = torch.finfo(serving).max * (1 + torch.finfo(serving).eps / 4)
    values = torch.linspace(0.99 * middle, min(1.01 * middle, 3.4e38), 100_001, dtype=torch.float64).float()
    values = torch.cat([values, -values])
    expected = {"0.a": EXPECTED["0.a"], "1.b": TensorFacts(dtype="F32", shape=(len(values),))}
    content = stored(tmp_path, **{"1_b": values})
    found = WeightsCheck("w", len(content), expected, code)
    found.feed(content)
    assert found.values["1.b"].not_finite == int((~values.to(serving).isfinite()).sum()) > 0
    with pytest.raises(RefusedError, match=f"values are not finite in {code}"):
        found.finish()


def test_counts_are_those_of_numpy() -> None:
    """Every pattern of 16 bits, against numpy's own tests of the numbers."""
    content = np.arange(1 << 16, dtype=np.uint16)
    header = json.dumps({"x": {"dtype": "F16", "shape": [1 << 16], "data_offsets": [0, 2 << 16]}}).encode()
    file = len(header).to_bytes(8, "little") + header + content.tobytes()
    found = WeightsCheck("w", len(file), {"x": TensorFacts(dtype="F16", shape=(1 << 16,))})
    found.feed(file)
    numbers = content.view(np.float16)
    small = np.abs(numbers[np.isfinite(numbers)])
    assert found.values["x"].not_finite == int((~np.isfinite(numbers)).sum())
    assert found.values["x"].subnormal == int(((small > 0) & (small < np.finfo(np.float16).tiny)).sum())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "1 tensors are missing, first 1.b"), ("extra", "1 unexpected tensors, first '2.c'")],
)
def test_tensors_are_exactly_the_expected_ones(tmp_path: Path, name: str, reason: str) -> None:
    tensors = {"0.a": torch.ones(3, 5)}
    if name == "extra":
        tensors |= {"1.b": torch.ones(7, dtype=torch.bfloat16), "2.c": torch.ones(1)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(RefusedError, match=reason):
        check((tmp_path / "x.safetensors").read_bytes())


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(5, 3), torch.ones(3, 5, dtype=torch.float64), torch.ones(3, 5, dtype=torch.int8), torch.ones(0, 5)],
    ids=["shape", "F64", "I8", "empty"],
)
def test_tensors_have_the_expected_shape_and_format(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(RefusedError, match=r"0\.a: expected F32 \[3, 5\], found"):
        check(stored(tmp_path, **{"0_a": tensor}))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    content = stored(tmp_path)
    for damaged in (b"", content[:7], content[:20], content[:-1], content + b"x"):
        with pytest.raises(RefusedError, match="damaged"):
            check(damaged)
    for length in (2**63, 1 << 20, len(content)):
        with pytest.raises(RefusedError, match="damaged: a header of"):
            check(length.to_bytes(8, "little") + content[8:])


def test_headers_that_the_library_accepts_are_refused(tmp_path: Path) -> None:
    content = stored(tmp_path)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    entry = b'"0.a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}'
    with pytest.raises(RefusedError, match="duplicate key"):
        check(with_header(content, text=header[:-1] + b", " + entry + b"}"))
    with pytest.raises(RefusedError, match=r"unexpected tensors, first '\.\./\.\./etc/x'"):
        check(with_header(content, {"../../etc/x": {"dtype": "F32", "shape": [0], "data_offsets": [74, 74]}}))
    with pytest.raises(RefusedError, match="metadata"):
        check(with_header(content, {"__metadata__": {"format": "pt", "note": "x" * 100}}))
    for offsets in ([0, 61], [-60, 0], [0, 60, 60], ["0", "60"], [4, 64]):
        with pytest.raises(RefusedError, match="damaged"):
            check(with_header(content, {"0.a": {"dtype": "F32", "shape": [3, 5], "data_offsets": offsets}}))


def test_where_tensors_are_not_known_names_and_formats_are(tmp_path: Path) -> None:
    content = stored(tmp_path)
    assert check(content, None).found == EXPECTED
    for name, entry in (
        ("../x", {"dtype": "F32", "shape": [1], "data_offsets": [74, 78]}),
        ("x" * 300, {"dtype": "F32", "shape": [1], "data_offsets": [74, 78]}),
        ("2.c", {"dtype": "F64", "shape": [1], "data_offsets": [74, 82]}),
        ("2.c", {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [74, 74]}),
        ("2.c", {"dtype": "F32"}),
    ):
        with pytest.raises(RefusedError, match="not a tensor that a bundle may have"):
            check(with_header(content, {name: entry}), None)


def test_many_empty_tensors_are_refused_by_the_size_of_the_header() -> None:
    header = json.dumps({f"{n}.x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)})
    content = len(header).to_bytes(8, "little") + header.encode()
    with pytest.raises(RefusedError, match="a header of"):
        check(content)
    with pytest.raises(RefusedError, match="a header of"):
        check(content, None)
