"""A tokenizer as data: `tokenizer.json` of the library tokenizers, and a few facts in the manifest.

The same normaliser, pre-tokenizer, model and post-processor run on the other side; the sender chooses no class of
transformers. A pattern in them may still take very long on some texts, so that they are tried first in a process with
limits. A chat template is a program of Jinja's sandbox, and is run only where `task.template = "chat"` asks for it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.core.errors import InputError, RefusedError
from tasks.exchange.manifest import TokenizerFacts
from tasks.exchange.names import TOKENIZER_FILE, max_bytes
from tasks.store.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Seconds of computing and bytes of memory that a tokenizer may take to be loaded and to encode a few texts.
PROBE_SECONDS, PROBE_BYTES = 30, 8 << 30
PROBE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]),) * 2)
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
largest = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
for text in ("", "word", "a" * 5000, " " * 5000, "1" * 5000, "a1 " * 2000, "!" * 5000, "\\n" * 5000, "\u00e9" * 5000):
    ids = tokenizer.encode(text).ids
    tokenizer.decode(ids)
    largest = max(largest, *ids, -1)
special = [tokenizer.token_to_id(token) for token in json.load(sys.stdin)]
print(-2 if None in special else max(largest, *special, -1))
"""
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
    return tokenizer_facts(tokenizer, context)


def tokenizer_facts(tokenizer: "PreTrainedTokenizerBase", context: int) -> TokenizerFacts:
    """Return what a manifest says of a tokenizer. context: tokens that the model takes.

    Raises:
        InputError: when a special token or the chat template is longer than a manifest may have.
    """
    template = tokenizer.chat_template
    special = {role: str(token) for role in ROLES if (token := getattr(tokenizer, role)) is not None}
    facts = {"special_tokens": special, "chat_template": template if isinstance(template, str) else None}
    try:
        return TokenizerFacts.model_validate({**facts, "context": context})
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer's {place} is longer than a bundle may have"
        ) from None


def probe_tokenizer(file: Path, special: Collection[str] = ()) -> int:
    """Load the tokenizer of a stranger and encode a few texts with it, in a process with limits.

    special: tokens of the manifest. Returns the largest id of its vocabulary, of these texts and of the special tokens.
    Other added tokens are not counted: some models have more of them than embeddings, and rows with one are refused.

    Raises:
        RefusedError: when it cannot be loaded, takes too long or too much memory, or lacks a special token.
    """
    command = [sys.executable, "-I", "-c", PROBE, str(file), str(PROBE_SECONDS), str(PROBE_BYTES)]
    threads = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(special)).encode(),
            capture_output=True,
            timeout=4 * PROBE_SECONDS,
            env={**os.environ, **threads},
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{TOKENIZER_FILE}: it takes too long to encode short texts") from None
    if done.returncode < 0:
        raise RefusedError(f"{TOKENIZER_FILE}: it takes too long, or too much memory, to encode short texts")
    if done.returncode:
        raise RefusedError(f"{TOKENIZER_FILE}: it is not a tokenizer that can be loaded")
    if (largest := int(done.stdout)) < -1:
        raise RefusedError(f"{TOKENIZER_FILE}: it lacks a special token that the manifest names")
    return largest


def require_ids(tokenizer: "PreTrainedTokenizerBase", size: int) -> None:
    """Check that a tokenizer has no ids that the other party would refuse. size: tokens of the model's vocabulary.

    Raises:
        InputError: when its vocabulary, or a special token, goes beyond it.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    known = backend.get_vocab(with_added_tokens=False).values() if backend else ()
    roles = [tokenizer.convert_tokens_to_ids(str(token)) for role in ROLES if (token := getattr(tokenizer, role))]
    if (largest := max([*known, *roles], default=-1)) >= size:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has the token id {largest}, and the model's vocabulary ends at"
            f" {size - 1}: take the tokenizer of this model, or resize its embeddings"
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
