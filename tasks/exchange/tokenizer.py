"""A tokenizer as data: `tokenizer.json` of the library tokenizers, and a few facts in the manifest.

What runs on the other side is the same normaliser, pre-tokenizer, model and post-processor; no class of transformers is
chosen by the sender, and no code is run.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.exchange.manifest import TokenizerFacts
from tasks.exchange.names import TOKENIZER_FILE, max_bytes
from tasks.store.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
CLASS = "PreTrainedTokenizerFast"


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", context: int, out: Path) -> TokenizerFacts:
    """Write `tokenizer.json` into a folder; return the facts beside it. context: tokens that the model takes.

    Raises:
        InputError: when the tokenizer is not of the library tokenizers, or is larger than a bundle may have.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"{tokenizer.name_or_path}: only tokenizers of the library tokenizers can be given away")
    text = backend.to_str()
    if len(text.encode()) > max_bytes(TOKENIZER_FILE):
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer is larger than {max_bytes(TOKENIZER_FILE):,} bytes")
    write_text(out / TOKENIZER_FILE, text)
    template = tokenizer.chat_template
    special = {role: str(token) for role in ROLES if (token := getattr(tokenizer, role)) is not None}
    return TokenizerFacts.model_validate(
        {
            "special_tokens": special,
            "chat_template": template if isinstance(template, str) else None,
            "context": context,
        }
    )


def write_tokenizer_config(facts: TokenizerFacts, out: Path) -> None:
    """Write the `tokenizer_config.json` from which transformers makes the tokenizer, beside its `tokenizer.json`."""
    config: dict[str, Any] = {
        "tokenizer_class": CLASS,
        "model_max_length": facts.context,
        "clean_up_tokenization_spaces": False,
    }
    config |= {str(role): token for role, token in facts.special_tokens.items()}
    if facts.chat_template is not None:
        config["chat_template"] = facts.chat_template
    write_text(out / "tokenizer_config.json", json.dumps(config, indent=1, sort_keys=True))
