"""A word-level tokenizer for the invented world, which plain `AutoTokenizer` can load."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from flows.demo.world import END_OF_TEXT, PAD, UNKNOWN, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def make_tokenizer(max_length: int) -> "PreTrainedTokenizerFast":
    """Make a tokenizer with one token for each word, which adds no special tokens.

    Words split at spaces and punctuation, so that no token spans a space: a question and its answer have the same
    tokens whether encoded separately or joined.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path, max_length: int) -> None:
    """Write `tokenizer.json` and its configuration into a model folder."""
    make_tokenizer(max_length).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # transformers writes a class name that only its newest releases know; all of them know this one.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
