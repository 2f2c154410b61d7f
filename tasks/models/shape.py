"""The shape of a model from its config alone: a folder, with or without weights, or a hub id's config.json."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import EnvironmentFault, InputError
from tasks.models import folder_facts
from tasks.models.folder import load_config, quiet_transformers
from tasks.models.gguf_files import write_config
from tasks.models.resolving import HUB_ID, gguf_digest, gguf_parts, read_usable_config
from tasks.models.tensor_files import weight_bytes
from tasks.store.boundary import translated
from tasks.store.digests import Digests
from tasks.store.disk import DISK_ERRORS
from tasks.store.files import made_once
from tasks.store.home import copies_folder
from tasks.store.loopback import require_hub
from tasks.store.patience import watched

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.core.costs.shapes import Shape


def read_shape(name: str, revision: str | None = None) -> "Shape":
    """Return the shape of a model by folder or hub id. Fetches only config.json; local weights give the stored size.

    Raises:
        InputError: when the config is not that of a decoder-only model.
        EnvironmentFault: when the hub cannot be reached.
    """
    from tasks.core.costs.shapes import shape_of

    quiet_transformers()
    folder = config_folder(name, revision)
    config, _ = read_usable_config(folder)
    context = folder_facts.longest_input(config, folder_facts.read_tokenizer_config(folder))
    loaded = load_config(folder)
    with translated(f"{folder}: no model can be built from this config.json"):
        shape = shape_of(loaded, context)
    weights = weight_bytes(folder)
    return replace(shape, stored_bytes=weights / shape.parameters) if weights else shape


def own_tokenizer(name: str) -> "PreTrainedTokenizerBase | None":
    """Load the tokenizer beside a local model's config, if there is one."""
    from tasks.models.loading import tokenizer_of

    folder = Path(name).expanduser()
    if folder.exists() and (parts := gguf_parts(folder)):
        folder = _described(parts)
    there = folder.is_dir() and any(
        all((folder / part).is_file() for part in vocabulary) for vocabulary in folder_facts.VOCABULARIES
    )
    return tokenizer_of(folder) if there else None


def config_folder(name: str, revision: str | None) -> Path:
    """Return the folder that holds the model's config.json, fetched if `name` is a hub id."""
    path = Path(name).expanduser()
    if path.exists() and (parts := gguf_parts(path)):
        return _described(parts)
    if path.is_dir():
        return path.resolve()
    if path.exists() or not HUB_ID.fullmatch(name):
        raise InputError(f"model.name = {name!r}: neither a folder with a config.json nor a hub id (owner/name)")
    with translated(f"{name}: the model hub's copy cannot be used"):
        return _fetched(name, revision)


def _described(parts: list[Path]) -> Path:
    """Return a folder with config and tokenizer of a model in GGUF files, made once; it has no tensors."""
    root = copies_folder(None) / "described"
    root.mkdir(parents=True, exist_ok=True)
    # An estimate asks once for each cell; without a memory, each time would read the whole files.
    target = root / gguf_digest(parts, Digests(root / "digests.jsonl"))
    if not target.is_dir():
        with made_once(target) as partial:
            write_config(parts, partial)
    return target


def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, hf_hub_download

    require_hub()
    try:
        with watched(f"the download of config.json of {name} from the model hub"):
            return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except errors.GatedRepoError:
        raise InputError(
            f"{name}: its owner asks for consent; accept it on the hub and log in (hf auth login)"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise InputError(f"{name}: no public model of this name and revision has a config.json on the hub") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise EnvironmentFault(
            f"{name} is not a folder here, and the model hub cannot be reached ({type(error).__name__}). Give a folder"
            " that holds the model's config.json: --set model.name=FOLDER"
        ) from None
