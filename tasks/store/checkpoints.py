"""Checkpoint file: holds the last save or the one before, never half of one, and nothing that runs when it is read."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.files import flush

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
CHECKPOINT_FILE = "checkpoint.safetensors"
DIGEST_BYTES = 64
# The safetensors library's bound on the header of a file.
MOST_HEADER_BYTES = 100_000_000


class CheckpointFile:
    """A safetensors file with facts in its header, after 64 digits of its SHA-256. on_save: called after each save."""

    def __init__(self, path: Path, on_save: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.on_save = on_save

    def save(self, tensors: "dict[str, Tensor]", facts: dict[str, Any]) -> None:
        """Write to a temporary file, flush it to the disk, and rename it."""
        from safetensors.torch import save

        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"facts": json.dumps(facts)},
        )
        temporary = self.path.with_suffix(".tmp")
        # The key of a private tuning is for this user alone.
        mode = 0o600 if facts.get("secret_key") else 0o666
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            # The digest goes in front, so that one rename replaces both.
            file.write(hashlib.sha256(content).hexdigest().encode())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        flush(self.path.parent)
        self.on_save()

    def load(self) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
        """Return the last save, or None; a damaged file is set aside with one warning, and the work starts again."""
        from safetensors import SafetensorError

        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return self._parse(raw)
        except (ValueError, KeyError, SafetensorError) as error:
            aside = self.path.with_suffix(".damaged")
            os.replace(self.path, aside)
            logger.warning("checkpoint %s is damaged (%s); set aside, starting again", self.path, error)
            return None

    def _parse(self, raw: bytes) -> "tuple[dict[str, Tensor], dict[str, Any]]":
        from safetensors.torch import load

        digest, content = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise ValueError("its digest does not match")
        size = int.from_bytes(content[:8], "little")
        return load(content), facts_in(content[8 : 8 + size])


def checkpoint_step(path: Path) -> int | None:
    """Return the step after which a checkpoint was saved; None if it is missing or damaged. Needs no torch."""
    if not is_whole(path):
        return None
    with open(path, "rb") as file:
        size = header_size(file.read(DIGEST_BYTES + 8))
        return step_in(file.read(size)) if size is not None else None


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint file exists and its content has the digest at its beginning."""
    try:
        with open(path, "rb") as file:
            digest = file.read(DIGEST_BYTES)
            return hashlib.file_digest(file, "sha256").hexdigest().encode() == digest
    except FileNotFoundError:
        return False


def header_size(begin: bytes) -> int | None:
    """Return the bytes of the header, from the first bytes of a checkpoint file; None if they are not from one."""
    size = int.from_bytes(begin[DIGEST_BYTES : DIGEST_BYTES + 8], "little")
    return size if len(begin) == DIGEST_BYTES + 8 and size <= MOST_HEADER_BYTES else None


def step_in(header: bytes) -> int:
    """Return the step that a header names, or 0.

    Raises:
        ValueError, KeyError, TypeError: when it is not the header of a checkpoint.
    """
    return int(facts_in(header).get("step", 0))


def facts_in(header: bytes) -> dict[str, Any]:
    """Return the facts in a header.

    Raises:
        ValueError, KeyError, TypeError: when it is not the header of a checkpoint.
    """
    return json.loads(json.loads(header)["__metadata__"]["facts"])
