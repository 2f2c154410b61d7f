"""A local Hugging Face model folder: its config, its model, and the files that travel with the weights."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.store.files import flush

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# What belongs to a model besides config and weights. Never code, never a file whose name says nothing.
COMPANIONS = (
    "generation_config.json",
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
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{folder}: {len(missing)} weights of the model are not on disk, first {missing[0]}")
    return model.to(device).eval()


def load_config(folder: Path) -> "PreTrainedConfig":
    """The config of a local model folder, without running code from it. InputError if it has none that is known."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no usable config.json: {str(error).splitlines()[0]}") from error
    # A reference to code on the hub would outlive the copy and ask the reader to run it.
    vars(config).pop("auto_map", None)
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
