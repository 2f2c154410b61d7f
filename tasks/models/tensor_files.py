"""Safetensors files as byte ranges: read headers and copy tensors from file to file without holding one in memory.

The format (https://github.com/huggingface/safetensors): the header's length in 8 little-endian bytes, a JSON header
with dtype, shape and byte range of every tensor, then the data without gaps.
"""

import json
import operator
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from tasks.core.errors import EnvironmentFault, InputError
from tasks.store.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

COPY_BYTES = 8 << 20
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_SHARD_BYTES = 5_000_000_000
# Bits of an entry, by the format's names of number formats.
ITEM_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
# Prefixes of files that other tools store beside a model: Mistral's own format, an adapter.
OTHER_SAFETENSORS = ("consolidated", "adapter")
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class TensorSource(Protocol):
    """Any tensor whose bytes can be written into a safetensors file."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int: ...

    def write_to(self, target: BinaryIO) -> None: ...


@dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk: `dtype` as the format spells it (BF16), its bytes from `start` to `end` of `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start

    def write_to(self, target: BinaryIO) -> None:
        """Copy the bytes verbatim through one small buffer."""
        buffer = memoryview(bytearray(min(COPY_BYTES, self.num_bytes)))
        left = self.num_bytes
        with self.file.open("rb", buffering=0) as source:
            source.seek(self.start)
            while left:
                count = source.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise InputError(f"{self.file} ends {left} bytes too early: it changed while it was read")
                target.write(buffer[:count])
                left -= count


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the header of one safetensors file and return its tensors.

    Raises:
        InputError: when the header does not fit the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise InputError(f"{file} is cut short: {size} bytes with a header of {length} bytes. Fetch it again")
        text = stream.read(length)
    base = 8 + length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {
            name: StoredTensor(entry["dtype"], tuple(entry["shape"]), file, base + start, base + end)
            for name, entry in header.items()
            for start, end in [entry["data_offsets"]]
        }
        reach = max((tensor.end for tensor in tensors.values()), default=base)
        fits = reach == size and all(base <= tensor.start <= tensor.end for tensor in tensors.values())
        misfit = next((name for name, tensor in tensors.items() if not _holds(tensor)), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} has no safetensors header ({type(error).__name__}). Fetch it again") from error
    if not fits:
        raise InputError(f"{file}: the header describes data up to byte {reach}, the file has {size}. Fetch it again")
    if misfit is not None:
        raise InputError(f"{file}: tensor {misfit} has bytes for another shape than its own. Fetch it again")
    return tensors


def _holds(tensor: StoredTensor) -> bool:
    """Return whether the number of bytes fits the tensor's shape; True for unknown number formats."""
    wide = ITEM_BITS.get(tensor.dtype)
    return wide is None or prod(map(operator.index, tensor.shape)) * wide == tensor.num_bytes * 8


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model folder, from its single file or from all shards that its index names."""
    if (folder / SINGLE_FILE).is_file():
        return read_header(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        pickled = any(folder.glob("pytorch_model*.bin"))
        advice = "it holds pickled weights only: convert them first" if pickled else "is it a model folder?"
        raise InputError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; {advice}")
    shards = read_index(folder / INDEX_FILE)
    headers = {name: read_header(folder / name) for name in sorted(set(shards.values()))}
    if absent := sorted(tensor for tensor, shard in shards.items() if tensor not in headers[shard]):
        raise InputError(f"{folder}: {len(absent)} tensors are not in the shards their index names, first {absent[0]}")
    return {tensor: headers[shard][tensor] for tensor, shard in shards.items()}


def weight_files(folder: Path) -> list[str]:
    """List the files from which a model folder is loaded: its single file, or its index and the shards in it."""
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        return []
    return [INDEX_FILE, *sorted(set(read_index(folder / INDEX_FILE).values()))]


def weight_bytes(folder: Path) -> int:
    """Sum the bytes of the safetensors files of the folder's model, also where shards are missing."""
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE).stat().st_size
    shards = (path for path in folder.glob("*.safetensors") if not path.name.startswith(OTHER_SAFETENSORS))
    return sum(path.stat().st_size for path in shards)


def read_index(file: Path) -> dict[str, str]:
    """Map each tensor name to its shard's file name, checking that every shard lies beside the index."""
    try:
        shards = {str(tensor): str(name) for tensor, name in json.loads(file.read_text())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is not an index of weights ({type(error).__name__}). Fetch it again") from error
    for name in set(shards.values()):
        if Path(name).name != name or not (file.parent / name).is_file():
            raise InputError(f"{file} names the shard {name!r}, which is not in that folder")
    return shards


def read_tensors(folder: Path, names: Iterable[str]) -> "dict[str, Tensor]":
    """Load only the named tensors of a model folder.

    Raises:
        InputError: when one is not there; names it.
    """
    from safetensors import safe_open

    stored, wanted = stored_tensors(folder), list(names)
    if absent := sorted(set(wanted) - stored.keys()):
        raise InputError(f"{folder} has no tensor {', '.join(absent[:5])}; it has {', '.join(sorted(stored)[:5])}, ...")
    tensors: dict[str, Tensor] = {}
    for file in sorted({stored[name].file for name in wanted}):
        with safe_open(file, framework="pt") as reader:
            tensors |= {name: reader.get_tensor(name) for name in wanted if stored[name].file == file}
    return {name: tensors[name] for name in wanted}


def write_tensors(
    tensors: Sequence[tuple[str, TensorSource]], out: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write `model.safetensors`, or shards with their index where one file would exceed `max_shard_bytes`.

    All files are flushed to the disk.

    Raises:
        EnvironmentFault: before the first byte is written, when the disk has too little room.
    """
    total = sum(tensor.num_bytes for _, tensor in tensors)
    if total > (free := shutil.disk_usage(out).free):
        raise EnvironmentFault(f"{out} needs {total / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB free: make room")
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        write_tensor_file(shards[0], out / SINGLE_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensor_file(shard, out / name)
        weight_map |= dict.fromkeys((tensor for tensor, _ in shard), name)
    write_text(out / INDEX_FILE, json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))


def _shards(tensors: Sequence[tuple[str, TensorSource]], limit: int) -> list[list[tuple[str, TensorSource]]]:
    """Group consecutive tensors into shards of at most `limit` bytes (a larger tensor has its own shard)."""
    shards: list[list[tuple[str, TensorSource]]] = [[]]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append((name, tensor))
        size += tensor.num_bytes
    return shards


def write_tensor_file(tensors: Sequence[tuple[str, TensorSource]], file: Path) -> None:
    """Write one safetensors file, flushed to the disk."""
    # Wide numbers first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(tensors, key=lambda item: -item[1].num_bytes // max(1, prod(item[1].shape)))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.num_bytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            tensor.write_to(stream)
        stream.flush()
        os.fsync(stream.fileno())
