"""Find a model by folder or hub id, check it, and identify it by content. No code here affects what is computed."""

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import EnvironmentFault, InputError
from tasks.models import folder_facts, folder_rules, gguf_files
from tasks.models.folder_facts import FileDigest
from tasks.models.folder_tensors import predicting_tensors, require_depth
from tasks.models.source import ModelSource
from tasks.models.tensor_files import stored_tensors
from tasks.models.vocabulary import declared_rows, stored_rows
from tasks.store.boundary import translated
from tasks.store.digests import plain_digest
from tasks.store.disk import DISK_ERRORS
from tasks.store.files import made_once
from tasks.store.home import copies_folder
from tasks.store.loopback import require_hub
from tasks.store.patience import watched

if TYPE_CHECKING:
    from tasks.store.artifacts import Store

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Weights, settings and tokenizers; never code.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


def resolve_model(name: str, revision: str | None = None, store: "Store | None" = None) -> ModelSource:
    """Find a model by folder or hub id, check it, and identify it by content; reads files, loads no tensors.

    store: remembers digests of files, and keeps pickled weights and GGUF files as safetensors, converted once.

    Raises:
        InputError: when anything cannot be used.
        EnvironmentFault: when the hub cannot be reached.
    """
    file_digest = store.digests if store else plain_digest
    converted = copies_folder(store) / "converted"
    place = _local_place(name, revision) or _fetched(name, revision)
    folder = _restored(place, converted, file_digest) or place
    config, num_blocks = read_usable_config(folder)
    tokenizer = folder_facts.tokenizer_digest(folder, file_digest)
    if not folder_facts.has_safetensors(folder):
        folder = _converted(folder, converted, file_digest, tokenizer)
    _tell_left_out(folder, config)
    return ModelSource(
        path=str(folder),
        name=name,
        weights=folder_facts.weights_digest(folder, config, file_digest),
        tokenizer=tokenizer,
        num_blocks=num_blocks,
        family=str(config["model_type"]),
        context=folder_facts.longest_input(config, folder_facts.read_tokenizer_config(folder)),
    )


def read_usable_config(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the config.json of a decoder that can be tuned, and its number of blocks; weights may be absent.

    Raises:
        InputError: when the folder holds an adapter, another kind of model, a quantised one, or lists for another
            depth.
    """
    config = folder_facts.read_config(folder)
    folder_rules.require_no_adapter(folder)
    folder_facts.require_decoder(config, folder)
    num_blocks = folder_facts.count_blocks(config, folder)
    folder_rules.require_usable_config(config, num_blocks, folder)
    return config, num_blocks


def _tell_left_out(folder: Path, config: dict[str, Any]) -> None:
    """Log which parts of the folder are not used, and where its files override its config.

    Raises:
        InputError: when there are more blocks than the config names, or a file is damaged.
    """
    folder_rules.tell_unused(folder)
    stored = stored_tensors(folder)
    require_depth(stored, config, folder)
    if left_out := sorted(predicting_tensors(stored, config, folder)):
        folder_rules.say(
            f"{folder}: {len(left_out)} tensors for multi-token prediction are left out, first {left_out[0]}: they are"
            " no part of the model that transformers runs"
        )
    rows, declared = stored_rows(folder), declared_rows(config)
    if None not in (rows, declared) and rows != declared:
        folder_rules.say(
            f"{folder}: the embedding has {rows} rows, config.json says vocab_size = {declared}: the model is loaded"
            " with what its files hold"
        )


def _local_place(name: str, revision: str | None) -> Path | None:
    """Return the folder or GGUF file that `name` is, or None if it must be a hub id.

    Raises:
        InputError: when it can be neither.
    """
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == gguf_files.SUFFIX):
        if revision is not None:
            raise InputError(f"model.revision = {revision!r}, but {name} is on this machine: revisions are for hub ids")
        # The target of a link, as in the hub's cache, may have a name without its ending, and lie apart from its parts.
        return path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if path.exists():
        raise InputError(
            f"model.name = {name!r} is a file: give the folder that holds config.json and the weights, or a .gguf file"
        )
    if not HUB_ID.fullmatch(name):
        raise InputError(f"model.name = {name!r}: there is no such folder, and it is not a hub id (owner/name)")
    return None


def _fetched(name: str, revision: str | None) -> Path:
    """Return a snapshot from the hub, or from its cache on this machine."""
    with translated(f"{name}: the model hub's copy cannot be used"):
        return _snapshot(name, revision)


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    require_hub()
    try:
        with watched(f"the download of {name} from the model hub"):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
            if not folder_facts.has_safetensors(folder):
                patterns = [*HUB_FILES, "pytorch_model*.bin"]
                folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise InputError(
            f"{name}: its owner asks for consent; accept it on the hub and log in (hf auth login)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name} has no revision {revision!r} on the hub") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: neither a folder here nor a public model on the hub (hf auth login for private)"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise EnvironmentFault(
            f"{name} is not a folder here, and the model hub cannot be reached ({type(error).__name__}). Download the"
            f" model where there is a network (hf download {name}) and give the folder as model.name"
        ) from None
    return folder


def _restored(place: Path, root: Path, file_digest: FileDigest) -> Path | None:
    """Convert a GGUF file, or a folder that holds no other weights, once for each content; None for another model.

    Raises:
        InputError: as `gguf_files.to_safetensors`.
    """
    if not (parts := gguf_parts(place)):
        return None
    target = root / gguf_digest(parts, file_digest)
    if not target.is_dir():
        folder_rules.say(
            f"{parts[0]}: restoring the tensors of this GGUF model as float32, four bytes a parameter, once, in"
            f" {target}; the folder can be removed when no run needs the model any more"
        )
        with made_once(target) as partial:
            gguf_files.to_safetensors(parts, partial)
    return target


def gguf_parts(place: Path) -> list[Path]:
    """Return the GGUF files from which a model is taken; none for a folder with weights of another kind.

    Raises:
        InputError: as `gguf_files.find_parts`.
    """
    if place.is_dir() and (folder_facts.has_safetensors(place) or folder_facts.has_pickled(place)):
        return []
    return gguf_files.find_parts(place)


def gguf_digest(parts: list[Path], file_digest: FileDigest) -> str:
    """Return the name of the folder converted from these files by this code and these packages."""
    packages = [version(name) for name in ("transformers", "gguf") if find_spec(name)]
    content = [*map(file_digest, parts), plain_digest(Path(gguf_files.__file__)), *packages]
    return folder_facts.json_digest(content)[:32]


def _converted(folder: Path, root: Path, file_digest: FileDigest, tokenizer: str) -> Path:
    """Convert the folder's pickled weights to a safetensors folder, once for each content."""
    if not folder_facts.has_pickled(folder):
        raise InputError(f"{folder} has no weights: expected model.safetensors, or its index with all shards")
    from tasks.models.pickled import to_safetensors

    parts = {path.name: file_digest(path) for path in sorted(folder.glob("pytorch_model*.bin*"))}
    parts["config.json"] = file_digest(folder / "config.json")
    # The tokenizer's files are copied too, so corrected ones need another folder.
    parts["tokenizer"] = tokenizer
    target = root / folder_facts.json_digest(parts)[:32]
    if not target.is_dir():
        folder_rules.say(f"{folder} has pickled weights only: converting them to safetensors once, in {target}")
        with made_once(target) as partial:
            to_safetensors(folder, partial)
    return target
