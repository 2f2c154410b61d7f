"""The full model with returned blocks as a plain Hugging Face folder, and back to the model of before.

The folder is a copy of the model's own files, in which the tensors of tuned blocks are other ones. The headers and the
replaced tensors of the original files are kept in the owner's home: with them, these files are made again, digest by
digest.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.exchange.names import CARD_FILE
from tasks.models.block_names import BlockNames
from tasks.models.folder import copy_companions
from tasks.models.folder_tensors import tensors_of
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tasks.models.tensor_files import StoredTensor, TensorSource, read_header, weight_files, write_tensor_file
from tasks.models.tensor_sources import MemoryTensor
from tasks.store.digests import plain_digest
from tasks.store.files import flush, flush_tree, write_flushed, write_text

if TYPE_CHECKING:
    from torch import Tensor

# In the plugged folder; transformers and servers of models ignore it.
PLUG_FILE = "crash_plug.json"
# In the owner's home, for each file with replaced tensors.
HEADER, REPLACED, PARTIAL = ".header", ".replaced", ".partial"


def find_replaced(model: ModelSource, admitted: "Mapping[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """Find the stored tensors that returned ones replace, by file and name.

    admitted: whole blocks in the model's number format, `"{block}.{name}"` to tensor.

    Raises:
        InputError: when a tensor is not stored as it is, because transformers computes with the family's blocks under
            other names or in other pieces than the files have.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, (full, place) in require_stored(model, admitted).items():
        if place.shape != tuple(admitted[name].shape):
            raise _not_stored(model, name)
        found.setdefault(place.file.name, {})[full] = admitted[name]
    return found


def require_stored(model: ModelSource, names: Iterable[str]) -> dict[str, tuple[str, StoredTensor]]:
    """Return the name in the model's files, and the stored tensor, of each tensor of its blocks.

    names: `"{block}.{name}"` each. An emulator whose tuned blocks could not be put into the files is not made.

    Raises:
        InputError: as `find_replaced`, but for shapes.
    """
    folder = Path(model.path)
    stored = tensors_of(folder)
    blocks = BlockNames(stored, model.num_blocks, folder)
    found = {}
    for name in names:
        block, _, rest = name.partition(".")
        full = blocks.name(int(block), rest)
        if full not in stored:
            raise _not_stored(model, name)
        found[name] = full, stored[full]
    return found


def _not_stored(model: ModelSource, name: str) -> InputError:
    return InputError(
        f"{model.name}: the files of this {model.family} model store {name} in another form than it is computed with,"
        " so that it cannot be replaced in them; take another model, or use `crash run` with export.plugged_model"
    )


def write_plugged(
    model: ModelSource,
    replaced: "Mapping[str, Mapping[str, Tensor]]",
    out: Path,
    original: Path,
    facts: dict[str, str],
) -> None:
    """Write the full model with other tensors into the empty folder `out`.

    replaced: by file and name; original: an empty folder, for headers and tensors of the original files; facts: of the
    bundle, for `crash_plug.json`.
    """
    folder = Path(model.path)
    for name in weight_files(folder):
        if name not in replaced:
            shutil.copyfile(folder / name, out / name)
            continue
        stored = read_header(folder / name)
        others = {tensor: MemoryTensor(new) for tensor, new in replaced[name].items()}
        merged: dict[str, TensorSource] = {**stored, **others}
        write_tensor_file(list(merged.items()), out / name)
        write_flushed(original / f"{name}{HEADER}", _header(folder / name))
        with open(original / f"{name}{REPLACED}", "wb") as saved:
            for tensor in _in_order(stored[each] for each in others):
                tensor.write_to(saved)
            os.fsync(saved.fileno())
    shutil.copyfile(folder / "config.json", out / "config.json")
    copy_companions(folder, out)
    before = {name: plain_digest(folder / name) for name in sorted(replaced)}
    # The tokenizer and all else that a model folder has are there by now.
    after = resolve_model(str(out)).weights
    described = {**facts, "weights_before": model.weights, "weights_after": after, "files_before": before}
    write_text(out / PLUG_FILE, json.dumps(described, indent=1))
    names = {name: sorted(tensors) for name, tensors in replaced.items()}
    write_text(original / PLUG_FILE, json.dumps({**described, "replaced": names}, indent=1))
    flush_tree(out)


def unplug(folder: Path, original: Path) -> None:
    """Make the original files again in a folder that `write_plugged` wrote. It can be run again where it was killed.

    original: the folder of their headers and tensors.

    Raises:
        EnvironmentFault: when these are not there.
        RefusedError: when the folder's files were changed otherwise since; they stay as they are.
    """
    try:
        described = json.loads((original / PLUG_FILE).read_text())
        before, replaced = dict(described["files_before"]), dict(described["replaced"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"the original blocks of {folder} are not in {original} ({type(error).__name__}): restore that folder from"
            " a copy of the home, or take the original model"
        ) from None
    made: list[Path] = []
    try:
        for name, digest in before.items():
            if plain_digest(folder / name) != digest:
                made.append(folder / f"{name}{PARTIAL}")
                _write_original(folder / name, original, set(replaced[name]), made[-1])
                _require_digest(made[-1], digest)
    except (OSError, KeyError, InputError, RefusedError):
        for each in made:
            each.unlink(missing_ok=True)
        raise RefusedError(f"{folder}: it was changed otherwise since it was plugged in; nothing was undone") from None
    for each in made:
        os.replace(each, each.with_name(each.name.removesuffix(PARTIAL)))
    (folder / PLUG_FILE).unlink()
    (folder / CARD_FILE).unlink(missing_ok=True)
    flush(folder)


def _require_digest(file: Path, digest: str) -> None:
    if plain_digest(file) != digest:
        raise RefusedError(f"{file}: another digest")


def _write_original(plugged: Path, original: Path, replaced: set[str], out: Path) -> None:
    """Write an original file from its header, its replaced tensors, and the others in the plugged file."""
    header = original / f"{plugged.name}{HEADER}"
    now = read_header(plugged)
    with open(out, "wb") as target, open(original / f"{plugged.name}{REPLACED}", "rb") as saved:
        target.write(header.read_bytes())
        for name, num_bytes in _spans(header):
            if name in replaced:
                target.write(saved.read(num_bytes))
            else:
                now[name].write_to(target)
        target.flush()
        os.fsync(target.fileno())


def _header(file: Path) -> bytes:
    with open(file, "rb") as stream:
        length = stream.read(8)
        return length + stream.read(int.from_bytes(length, "little"))


def _spans(header: Path) -> list[tuple[str, int]]:
    """Return name and number of bytes of each tensor, in the order of the file."""
    entries = json.loads(header.read_bytes()[8:])
    entries.pop("__metadata__", None)
    offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
    return [(name, offsets[name][1] - offsets[name][0]) for name in sorted(offsets, key=offsets.__getitem__)]


def _in_order(tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
    return sorted(tensors, key=lambda tensor: tensor.start)


def plugged_bundle(folder: Path) -> str:
    """Return the id of the tuned blocks in a plugged folder.

    Raises:
        InputError: when nothing was plugged into it.
    """
    try:
        bundle = str(json.loads((folder / PLUG_FILE).read_text())["bundle"])
    except (OSError, ValueError, KeyError, TypeError):
        bundle = ""
    if not re.fullmatch(r"[0-9a-f]{32}", bundle):
        raise InputError(f"{folder} has no {PLUG_FILE}: nothing was plugged into it, or it was unplugged")
    return bundle
