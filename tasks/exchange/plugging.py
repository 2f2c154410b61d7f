"""The full model with returned blocks as a plain Hugging Face folder, and back to the model of before.

The folder is a copy of the model's own files, in which only the bytes of the tuned blocks are other ones. Putting the
original bytes back gives the original files, digest by digest.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.exchange.folder import CHUNK_BYTES
from tasks.exchange.names import CARD_FILE
from tasks.models.block_names import BlockNames
from tasks.models.folder import copy_companions
from tasks.models.folder_tensors import tensors_of
from tasks.models.source import ModelSource
from tasks.models.tensor_files import weight_files
from tasks.models.tensor_sources import DTYPES, MemoryTensor
from tasks.store.files import flush, flush_tree, write_text

if TYPE_CHECKING:
    from torch import Tensor

# In the plugged folder; transformers and servers of models ignore it.
PLUG_FILE = "crash_plug.json"
ORIGINAL_FILE = "original.bin"


@dataclass(frozen=True)
class Patch:
    """Where the bytes of a returned tensor go: a file of the model, and the tensor that they replace."""

    file: str
    start: int
    end: int
    tensor: "Tensor"


def find_patches(model: ModelSource, admitted: "Mapping[str, Tensor]") -> list[Patch]:
    """Find the bytes of a model's files that returned tensors replace.

    admitted: whole blocks in the model's number format, `"{block}.{name}"` to tensor.

    Raises:
        InputError: when a tensor has no bytes of its own in the files, because transformers stores the family's blocks
            under other names or in other pieces than it computes with.
    """
    folder = Path(model.path)
    stored = tensors_of(folder)
    names = BlockNames(stored, model.num_blocks, folder)
    found = []
    for name, tensor in admitted.items():
        block, _, rest = name.partition(".")
        place = stored.get(names.name(int(block), rest))
        if place is None or (place.dtype, place.shape) != (_code(tensor), tuple(tensor.shape)):
            raise InputError(
                f"{model.name}: the files of this {model.family} model store {name} in another form than it is"
                " computed with, so that it cannot be replaced in them; use `crash run` with export.plugged_model"
            )
        found.append(Patch(place.file.name, place.start, place.end, tensor))
    return sorted(found, key=lambda patch: (patch.file, patch.start))


def write_plugged(model: ModelSource, patches: list[Patch], out: Path, original: Path, facts: dict[str, str]) -> None:
    """Write the full model with the patches into the empty folder `out`.

    original: an empty folder, for the bytes that are replaced; facts: of the bundle, for `crash_plug.json`.
    """
    folder = Path(model.path)
    for name in weight_files(folder):
        shutil.copyfile(folder / name, out / name)
    shutil.copyfile(folder / "config.json", out / "config.json")
    copy_companions(folder, out)
    places = [[patch.file, patch.start, patch.end] for patch in patches]
    before = {name: _digest(out / name) for name in sorted({patch.file for patch in patches})}
    with open(original / ORIGINAL_FILE, "wb") as saved:
        for patch in patches:
            with open(out / patch.file, "r+b") as target:
                target.seek(patch.start)
                saved.write(target.read(patch.end - patch.start))
                target.seek(patch.start)
                MemoryTensor(patch.tensor).write_to(target)
        saved.flush()
        os.fsync(saved.fileno())
    described = {"weights_before": model.weights, **facts, "files_before": before}
    write_text(out / PLUG_FILE, json.dumps(described, indent=1))
    write_text(original / PLUG_FILE, json.dumps({**described, "places": places}, indent=1))
    flush_tree(out)


def unplug(folder: Path, original: Path) -> None:
    """Put the original bytes back into a folder that `write_plugged` wrote, in place.

    original: the folder of these bytes. It can be run again where it was interrupted.

    Raises:
        EnvironmentFault: when the original bytes are not there.
        RefusedError: when the folder's files were changed otherwise since.
    """
    try:
        described = json.loads((original / PLUG_FILE).read_text())
        content = (original / ORIGINAL_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"the original blocks of {folder} are not in {original} ({type(error).__name__}): restore that folder from"
            " a copy of the home, or take the original model"
        ) from None
    for file, pieces in _by_file(described["places"], content).items():
        with open(folder / file, "r+b") as target:
            for start, piece in pieces:
                target.seek(start)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
    for file, digest in described["files_before"].items():
        if _digest(folder / file) != digest:
            raise RefusedError(f"{folder / file}: not what it was before plugging in: it was changed otherwise since")
    (folder / PLUG_FILE).unlink()
    (folder / CARD_FILE).unlink(missing_ok=True)
    flush(folder)


def plugged_bundle(folder: Path) -> str:
    """Return the id of the tuned blocks in a plugged folder.

    Raises:
        InputError: when nothing was plugged into it.
    """
    try:
        return str(json.loads((folder / PLUG_FILE).read_text())["bundle"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} has no {PLUG_FILE}: nothing was plugged into it, or it was unplugged") from None


def _by_file(places: list, content: bytes) -> dict[str, list[tuple[int, bytes]]]:
    found: dict[str, list[tuple[int, bytes]]] = {}
    at = 0
    for file, start, end in places:
        found.setdefault(file, []).append((start, content[at : at + end - start]))
        at += end - start
    return found


def _code(tensor: "Tensor") -> str:
    return DTYPES[str(tensor.dtype).removeprefix("torch.")]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
