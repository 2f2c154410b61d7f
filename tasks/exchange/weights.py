"""A safetensors file of a stranger, read once from start to end: its header first, then the values of every tensor.

The header must name exactly the expected tensors, or where these are not known only such as a bundle may have, without
gaps; only then are values looked at. Memory holds the header and one part of the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tasks.core.errors import RefusedError
from tasks.exchange.manifest import MAX_TENSORS, TensorFacts, TensorName
from tasks.exchange.strict_json import parse_strictly

LENGTH_BYTES = 8
# A name, a shape and offsets take less than this; and a header has at least room for its metadata.
HEADER_BYTES_PER_TENSOR, LEAST_HEADER_BYTES = 512, 1 << 12
# Of each number format: numpy's type of the same bits, the bits of a magnitude, infinity, and the least normal number.
_BITS: dict[str, tuple[Any, int, int, int]] = {
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000, 0x00800000),
    "F16": (np.uint16, 0x7FFF, 0x7C00, 0x0400),
    "BF16": (np.uint16, 0x7FFF, 0x7F80, 0x0080),
}
_NAME: TypeAdapter[str] = TypeAdapter(TensorName)
# Bits of the least float32 that becomes infinite in a narrower format: 65,520, and halfway behind bfloat16's largest.
_OVERFLOW = {"F16": 0x477FF000, "BF16": 0x7F7F8000}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# Values that are looked at together: what is computed of them stays in the processor's cache.
CACHED_VALUES = 1 << 16
# Computing with numbers below the least normal one is up to a hundred times slower. Trained weights have next to none,
# but biases that hardly moved from zero have some.
MAX_SUBNORMAL, MAX_SUBNORMAL_SHARE = 64, 0.01


@dataclass
class Seen:
    """Counts of a tensor's values: all, those that are not finite, and those below the least normal number."""

    count: int = 0
    not_finite: int = 0
    subnormal: int = 0


class WeightsCheck:
    """Check of one file, fed with its bytes in order.

    expected: the tensors that the file must have, no more and no less; None for any that a bundle may have. found: the
    tensors that it has; values: how many numbers of each are not finite, and how many subnormal.
    """

    def __init__(
        self, name: str, size: int, expected: Mapping[str, TensorFacts] | None, serving: str | None = None
    ) -> None:
        """serving: number format in which the tensors will be used, in which values must be finite too."""
        self._name, self._size, self._expected, self._serving = name, size, expected, serving
        self._limit = MAX_TENSORS if expected is None else len(expected)
        self.found: Mapping[str, TensorFacts] = {}
        self._head = bytearray()
        self._spans: list[tuple[str, str, int, int]] | None = None
        self._rest = b""
        self._at = self._index = 0
        self.values: dict[str, Seen] = {}

    def feed(self, part: bytes) -> None:
        """Take the next bytes of the file.

        Raises:
            RefusedError: when the header is not as expected.
        """
        if self._spans is None:
            self._head += part
            part = self._read_header()
        self._read_values(part)

    def finish(self) -> None:
        """Check what the whole file said.

        Raises:
            RefusedError: when it ended early, or a tensor has a value that is not finite, or too many subnormal ones.
        """
        if self._spans is None or self._index < len(self._spans):
            raise RefusedError(f"{self._name}: damaged: it ends before its last tensor")
        where = f" in {self._serving}" if self._serving else ""
        for tensor, seen in self.values.items():
            if seen.not_finite:
                raise RefusedError(
                    f"{self._name}: {tensor}: {seen.not_finite} of {seen.count} values are not finite{where}"
                )
            if seen.subnormal > max(MAX_SUBNORMAL, MAX_SUBNORMAL_SHARE * seen.count):
                raise RefusedError(
                    f"{self._name}: {tensor}: {seen.subnormal} of {seen.count} values are subnormal, which makes"
                    " computing with them many times slower"
                )

    def _read_header(self) -> bytes:
        """Read the header once all of it is there; return the bytes behind it."""
        if len(self._head) < LENGTH_BYTES:
            return b""
        length = int.from_bytes(self._head[:LENGTH_BYTES], "little")
        limit = max(LEAST_HEADER_BYTES, HEADER_BYTES_PER_TENSOR * self._limit)
        if length > limit or length > self._size - LENGTH_BYTES:
            raise RefusedError(f"{self._name}: damaged: a header of {length:,} bytes (at most {limit:,})")
        end = LENGTH_BYTES + length
        if len(self._head) < end:
            return b""
        header = parse_strictly(bytes(self._head[LENGTH_BYTES:end]), f"{self._name}: header")
        self._spans = self._checked(header, self._size - end)
        rest, self._head = bytes(self._head[end:]), bytearray()
        self.values = {name: Seen() for name, *_ in self._spans}
        return rest

    def _checked(self, header: dict[str, Any], num_bytes: int) -> list[tuple[str, str, int, int]]:
        """Return name, number format, start and end of each tensor, in the order of the file."""
        _require_metadata(self._name, header.pop("__metadata__", {}))
        self.found = _described(self._name, header) if self._expected is None else self._expected
        if missing := sorted(self.found.keys() - header.keys()):
            raise RefusedError(f"{self._name}: {len(missing)} tensors are missing, first {missing[0]}")
        if extra := sorted(header.keys() - self.found.keys()):
            raise RefusedError(f"{self._name}: {len(extra)} unexpected tensors, first {extra[0][:64]!a}")
        spans = [self._span(name, header[name], facts) for name, facts in self.found.items()]
        spans.sort(key=lambda span: span[2:])
        end = 0
        for name, _, start, stop in spans:
            if start != end:
                raise RefusedError(f"{self._name}: damaged: {name} does not begin where the tensor before it ends")
            end = stop
        if end != num_bytes:
            raise RefusedError(f"{self._name}: damaged: {num_bytes:,} bytes of data (expected {end:,})")
        return spans

    def _span(self, name: str, found: Any, facts: TensorFacts) -> tuple[str, str, int, int]:
        if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
            raise RefusedError(f"{self._name}: damaged: {name} has other fields than dtype, shape and data_offsets")
        # In Python, 3.0 and True equal whole numbers.
        whole = isinstance(found["shape"], list) and all(type(size) is int for size in found["shape"])
        if not whole or found["dtype"] != facts.dtype or found["shape"] != list(facts.shape):
            raise RefusedError(
                f"{self._name}: {name}: expected {facts.dtype} {list(facts.shape)}, found"
                f" {ascii(found['dtype'])[1:33]} {ascii(found['shape'])[:64]}"
            )
        offsets = found["data_offsets"]
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(each) is int for each in offsets):
            raise RefusedError(f"{self._name}: damaged: {name} has no two data_offsets")
        start, stop = offsets
        if start < 0 or stop - start != ITEM_BYTES[facts.dtype] * prod(facts.shape):
            raise RefusedError(f"{self._name}: damaged: the data_offsets of {name} do not fit its shape")
        return name, facts.dtype, start, stop

    def _read_values(self, part: bytes) -> None:
        """Look at the values in the next bytes of the data; a number that is cut waits for its rest."""
        assert self._spans is not None or not part
        view = memoryview(self._rest + part if self._rest else part)
        self._rest = b""
        while view and self._spans is not None and self._index < len(self._spans):
            name, dtype, _, stop = self._spans[self._index]
            take = min(len(view), stop - self._at)
            whole = take - take % ITEM_BYTES[dtype]
            if whole == 0 and take < stop - self._at:
                self._rest = bytes(view)
                return
            _look(self.values[name], np.frombuffer(view[:whole], _BITS[dtype][0]), dtype, self._serving)
            self._at += whole
            view = view[whole:]
            if self._at == stop:
                self._index += 1


def _described(file: str, header: Mapping[str, Any]) -> dict[str, TensorFacts]:
    """Return the tensors of a header, if each is one that a bundle may have."""
    if len(header) > MAX_TENSORS:
        raise RefusedError(f"{file}: {len(header):,} tensors, more than the {MAX_TENSORS:,} that a file may have")
    found = {}
    for name, entry in header.items():
        try:
            _NAME.validate_python(name)
            chosen = {key: entry[key] for key in ("dtype", "shape")}
            found[name] = TensorFacts.model_validate(chosen)
        except (ValidationError, KeyError, TypeError):
            raise RefusedError(f"{file}: {name[:64]!a}: not a tensor that a bundle may have") from None
    return found


def _look(seen: Seen, bits: np.ndarray, dtype: str, serving: str | None) -> None:
    """Count values by their bits: the magnitude of a float, read as a whole number, grows with the float."""
    _, mask, infinity, normal = _BITS[dtype]
    if dtype == "F32" and serving in _OVERFLOW:
        infinity = _OVERFLOW[serving]
    seen.count += bits.size
    for start in range(0, bits.size, CACHED_VALUES):
        magnitude = bits[start : start + CACHED_VALUES] & mask
        if int(magnitude.max()) >= infinity:
            seen.not_finite += int((magnitude >= infinity).sum())
        # Zero is none of them: one less than it is the largest whole number.
        magnitude -= 1
        seen.subnormal += int(np.count_nonzero(magnitude < normal - 1))


def _require_metadata(name: str, metadata: Any) -> None:
    if metadata != {} and metadata != {"format": "pt"}:
        raise RefusedError(f"{name}: unexpected metadata in the header")
