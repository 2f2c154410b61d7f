"""Tensors to write that are not stored as they are: in memory, or computed at the time of writing."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from tasks.core.errors import InputError
from tasks.models.tensor_files import COPY_BYTES, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# Number formats for computation, and bytes of an entry.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor (mapped from its file where possible) as a source of bytes for `write_tensors`."""

    tensor: "Tensor"

    @property
    def dtype(self) -> str:
        return DTYPES[str(self.tensor.dtype).removeprefix("torch.")]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def write_to(self, target: BinaryIO) -> None:
        import torch

        data = self.tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), COPY_BYTES):
            target.write(data[start : start + COPY_BYTES])


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor of one of `FLOATS` that is computed when it is written, and not kept."""

    dtype: str
    shape: tuple[int, ...]
    compute: "Callable[[], Tensor]"

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * FLOATS[self.dtype]

    def write_to(self, target: BinaryIO) -> None:
        ready = MemoryTensor(self.compute())
        assert (ready.dtype, ready.shape) == (self.dtype, self.shape), "the header is written before the tensor"
        ready.write_to(target)


def read_stored(stored: StoredTensor) -> "Tensor":
    """Load a stored tensor."""
    import io

    import torch

    names = {code: name for name, code in DTYPES.items()}
    content = io.BytesIO()
    stored.write_to(content)
    dtype = getattr(torch, names[stored.dtype])
    if not stored.num_bytes:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(content.getbuffer(), dtype=dtype).reshape(stored.shape)


def read_entries(stored: StoredTensor, begin: int, end: int) -> "Tensor":
    """Load entries begin .. end - 1 of a stored tensor of one of `FLOATS` as a vector, without reading the others."""
    import torch

    names = {code: name for name, code in DTYPES.items()}
    item = FLOATS[stored.dtype]
    with stored.file.open("rb", buffering=0) as source:
        source.seek(stored.start + begin * item)
        content = bytearray(source.read((end - begin) * item))
    if len(content) != (end - begin) * item:
        raise InputError(f"{stored.file} ends too early: it changed while it was read")
    return torch.frombuffer(content, dtype=getattr(torch, names[stored.dtype]))
