"""A local Hugging Face model folder: its config, its model, and the files that travel with the weights."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.folder_view import only
from tasks.models.tensor_files import weight_files
from tasks.models.vocabulary import stored_rows
from tasks.store.boundary import translated
from tasks.store.files import flush

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

GENERATION_FILE = "generation_config.json"
# What belongs to a model besides config and weights. Never code, never a file whose name says nothing.
COMPANIONS = (
    GENERATION_FILE,
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)


def load_folder(folder: Path, *, dtype: "torch.dtype | str" = "auto", device: str = "cpu") -> "PreTrainedModel":
    """A causal language model from safetensors only, in evaluation mode. InputError if a weight is missing on disk."""
    model, report = read_model(folder, dtype=dtype)
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{folder}: {len(missing)} weights of the model are not on disk, first {missing[0]}")
    return model.to(device).eval()


def read_model(folder: Path, called: str = "", **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a folder on the CPU, and transformers' report of what was missing, left over or of another shape.

    Only the files that are in the model's identity are read, and no code. called: as the user names it; options: of
    `from_pretrained`.

    Raises:
        InputError: where transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    config = load_config(folder)
    names = ("config.json", GENERATION_FILE, *weight_files(folder))
    with translated(f"{called or folder}: transformers cannot load this model"), only(folder, names) as place:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    model.config.name_or_path = str(folder)
    return model, report


def load_config(folder: Path) -> "PreTrainedConfig":
    """The config of a local model folder, with as many tokens as its files hold embeddings for. Runs no code from it.

    Raises:
        InputError: for a config that transformers does not know or take.
    """
    from transformers import AutoConfig, __version__

    what = f"{folder}: transformers {__version__} cannot load this model, because of its config.json"
    with translated(what), only(folder, ("config.json",)) as place:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
        config.name_or_path = str(folder)
        # A reference to code on the hub would outlive the copy and ask the reader to run it.
        vars(config).pop("auto_map", None)
        text = config.get_text_config(decoder=True)
        if (rows := stored_rows(folder)) is not None and rows != text.vocab_size:
            text.vocab_size = rows
    return config


def quiet_transformers() -> None:
    """No progress bars and no advice while loading: what matters is checked and raised here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def copy_companions(folder: Path, out: Path) -> None:
    """Copy tokenizer and generation settings, flushed to the disk."""
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            shutil.copyfile(file, out / file.name)
            flush(out / file.name)
