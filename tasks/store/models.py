"""A model as an input: found, checked, identified by content, loaded."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import EnvironmentFault, InputError
from tasks.store import model_files
from tasks.store.digests import plain_digest
from tasks.store.files import made_once
from tasks.store.loopback import require_hub
from tasks.store.model_files import FileDigest
from tasks.store.model_folder import quiet_transformers
from tasks.store.task_sources import home

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.store.artifacts import Store

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Weights, settings and tokenizers; never code.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


class ModelSource(BaseModel):
    """A decoder-only model on this machine.

    path: its folder; name: as the user wrote it; weights, tokenizer: digests of content; context: tokens it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    name: str
    weights: str
    tokenizer: str
    num_blocks: int
    family: str
    context: int

    def cache_view(self) -> dict[str, str]:
        """What identifies the model in a key: content, never where it lies or what it is called."""
        return {"weights": self.weights, "tokenizer": self.tokenizer}


def resolve_model(name: str, revision: str | None = None, store: "Store | None" = None) -> ModelSource:
    """Find a model by folder or hub id, check it, and identify it by content; reads files, loads no tensors.

    store: remembers digests of files, and keeps pickled weights as safetensors, converted once.
    InputError for anything that cannot be used, EnvironmentFault where the hub cannot be reached.
    """
    file_digest = store.digests if store else plain_digest
    folder = _local_folder(name, revision) or _fetched(name, revision)
    config = model_files.read_config(folder)
    model_files.require_decoder(config, folder)
    num_blocks = model_files.count_blocks(config, folder)
    tokenizer = model_files.tokenizer_digest(folder, file_digest)
    if not model_files.has_safetensors(folder):
        folder = _converted(folder, home(store) / "converted", file_digest, tokenizer)
    return ModelSource(
        path=str(folder),
        name=name,
        weights=model_files.weights_digest(folder, config, file_digest),
        tokenizer=tokenizer,
        num_blocks=num_blocks,
        family=str(config["model_type"]),
        context=model_files.longest_input(config, model_files.read_tokenizer_config(folder)),
    )


def load_model(
    source: ModelSource,
    precision: "torch.dtype | str" = "float32",
    device: str = "cpu",
    attn: str | None = None,
) -> "PreTrainedModel":
    """The model in evaluation mode, from safetensors only, running no code from its folder.

    precision: number format, or "stored" for that of the files.
    device: as torch names it, or "auto" to spread the model over all visible GPUs.
    attn: attention implementation as transformers names it; its own choice by default.
    InputError if weights are missing or the family is unknown.
    """
    from transformers import AutoModelForCausalLM

    from tasks.core.devices import place

    quiet_transformers()
    options: dict[str, Any] = {"attn_implementation": attn} if attn else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype="auto" if precision == "stored" else precision,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except ValueError as error:
        raise InputError(f"{source.name}: transformers cannot load this model: {_first_line(error)}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{source.name}: {len(missing)} weights of the model are not in its files, first {missing[0]}")
    return place(model, device).eval()


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a padding token."""
    return tokenizer_of(Path(source.path))


def tokenizer_of(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder. One without a padding token pads with another: padding is masked, any token does."""
    from transformers import AutoTokenizer

    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        raise InputError(f"{folder}: transformers cannot load the tokenizer: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        # lm-eval's order of preference; the rest is for tokenizers without any special token.
        names = (tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(name for name in names if name is not None)
    return tokenizer


def _local_folder(name: str, revision: str | None) -> Path | None:
    """The folder that `name` is, or None where it must be a hub id. InputError if it can be neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"model.revision = {revision!r}, but {name} is a folder: revisions are for hub ids")
        return path.resolve()
    if path.exists():
        raise InputError(f"model.name = {name!r} is a file: give the folder that holds config.json and the weights")
    if not HUB_ID.fullmatch(name):
        raise InputError(f"model.name = {name!r}: there is no such folder, and it is no hub id (owner/name)")
    return None


def _fetched(name: str, revision: str | None) -> Path:
    """A snapshot from the hub, or from its cache on this machine."""
    from huggingface_hub import errors, snapshot_download

    require_hub()
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
        if not model_files.has_safetensors(folder):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"]))
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
        raise EnvironmentFault(
            f"{name} is no folder here, and the model hub cannot be reached ({type(error).__name__}). Download the"
            f" model where there is a network (hf download {name}) and give the folder as model.name"
        ) from None
    return folder


def _converted(folder: Path, root: Path, file_digest: FileDigest, tokenizer: str) -> Path:
    """The folder's pickled weights as a safetensors folder, made once for each content."""
    if not model_files.has_pickled(folder):
        raise InputError(f"{folder} has no weights: expected model.safetensors, or its index with all shards")
    from tasks.store.pickled import to_safetensors

    parts = {path.name: file_digest(path) for path in sorted(folder.glob("pytorch_model*.bin*"))}
    parts["config.json"] = file_digest(folder / "config.json")
    # Its files are copied along: corrected ones make another folder.
    parts["tokenizer"] = tokenizer
    target = root / model_files.json_digest(parts)[:32]
    if not target.is_dir():
        logger.info("%s has pickled weights only: converting them to safetensors once, in %s", folder, target)
        with made_once(target) as partial:
            to_safetensors(folder, partial)
    return target


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
