"""A small model folder as people have them, made here: a LLaMA of 6 blocks with a tokenizer, to be changed by tests."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tests.core.tiny_models import tiny_model

NUM_TOKENS = 64


def make_folder(folder: Path, family: str = "llama") -> Path:
    """A new folder of the family with weights, config, generation settings and a tokenizer of 64 tokens."""
    tiny_model(family).save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def add_tokenizer(folder: Path) -> None:
    """Letters as tokens."""
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *sorted(ByteLevel.alphabet())[:62]])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<s>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def copied(folder: Path, out: Path) -> Path:
    """A copy of a folder, to be spoilt."""
    return Path(shutil.copytree(folder, out))


def edit(folder: Path, file: str = "config.json", **changes: Any) -> None:
    """Change settings of a JSON file."""
    settings = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(settings | changes))
