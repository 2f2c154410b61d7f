"""The files that a bundle may have, and how large each may be.

A bundle is a flat folder: no archive, no folder in it, no link, and no file with another name than these.
"""

import re

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"
WEIGHTS_FILE = "weights.safetensors"
_SHARD = re.compile(r"weights-\d{5}\.safetensors")

MAX_FILES = 4096
# Whole tensors of the tuned blocks stand in the manifest, thousands of them in a mixture of experts.
MAX_MANIFEST_BYTES = 1 << 20
# Ed25519 signatures have 64 bytes.
SIGNATURE_BYTES = 64
_MAX_BYTES = {MANIFEST_FILE: MAX_MANIFEST_BYTES, SIGNATURE_FILE: SIGNATURE_BYTES, CARD_FILE: 1 << 16}
# The vocabulary of a large model with all merges; the largest known one has 35 MB.
_MAX_BYTES[TOKENIZER_FILE] = 64 << 20
_MAX_WEIGHT_BYTES = 1 << 40


def shard_name(number: int, count: int) -> str:
    """Return the name of the weights file with this number, from 1, of so many."""
    return WEIGHTS_FILE if count == 1 else f"weights-{number:05d}.safetensors"


def is_weights(name: str) -> bool:
    """Return whether a file of this name holds tensors."""
    return name == WEIGHTS_FILE or _SHARD.fullmatch(name) is not None


def is_allowed(name: str) -> bool:
    """Return whether a bundle may have a file of this name."""
    return name in _MAX_BYTES or is_weights(name)


def max_bytes(name: str) -> int:
    """Return how large a file of this allowed name may be."""
    return _MAX_WEIGHT_BYTES if is_weights(name) else _MAX_BYTES[name]
