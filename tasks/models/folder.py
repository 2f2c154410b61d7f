"""A local Hugging Face model folder: its config, its model, and the other files that are copied with the weights."""

import logging
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
# Files that belong to a model besides config and weights. Never code, never a file of unknown purpose.
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
    """Load a causal language model from safetensors only, in evaluation mode.

    Raises:
        InputError: when a weight is missing on disk.
    """
    model, report = read_model(folder, dtype=dtype)
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{folder}: {len(missing)} weights of the model are not on disk, first {missing[0]}")
    return model.to(device).eval()


def read_model(folder: Path, called: str = "", **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model of a folder on the CPU, and transformers' report of missing, unexpected and mismatched weights.

    Only the files that are in the model's identity are read, and no code is run. called: the name that the user gave;
    options: of `from_pretrained`.

    Raises:
        InputError: when transformers cannot load it.
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
    """Load the config of a local model folder, with the vocabulary size of its stored embedding. Runs no code from it.

    Raises:
        InputError: when transformers does not know or accept the config.
    """
    from transformers import AutoConfig, __version__

    what = f"{folder}: transformers {__version__} cannot load this model, because of its config.json"
    with translated(what), only(folder, ("config.json",)) as place:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
        config.name_or_path = str(folder)
        # Copies would otherwise keep a reference to code on the hub, and ask their user to run it.
        vars(config).pop("auto_map", None)
        text = config.get_text_config(decoder=True)
        if (rows := stored_rows(folder)) is not None and rows != text.vocab_size:
            text.vocab_size = rows
    return config


def quiet_transformers() -> None:
    """Turn off the progress bars and advice of loading: all that matters is checked and raised here."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # accelerate warns about blocks on disk, which are intended (`tasks.models.streamed`).
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)


def copy_companions(folder: Path, out: Path) -> None:
    """Copy tokenizer and generation settings, flushed to the disk."""
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            shutil.copyfile(file, out / file.name)
            flush(out / file.name)
