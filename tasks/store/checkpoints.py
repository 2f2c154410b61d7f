"""One file that holds a checkpoint: all of it or the one before, never half, and nothing that runs when it is read."""

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
# The library's own bound for the header of a safetensors file.
MOST_HEADER_BYTES = 100_000_000


class CheckpointFile:
    """A safetensors file with the facts in its header, behind 64 digits of its SHA-256. on_save follows each save."""

    def __init__(self, path: Path, on_save: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.on_save = on_save

    def save(self, tensors: "dict[str, Tensor]", facts: dict[str, Any]) -> None:
        """Write beside, have the disk confirm, rename."""
        from safetensors.torch import save

        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"facts": json.dumps(facts)},
        )
        temporary = self.path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            # The digest goes in front, so that one rename replaces both.
            file.write(hashlib.sha256(content).hexdigest().encode())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        flush(self.path.parent)
        self.on_save()

    def load(self) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
        """The last save, or None; a damaged file is set aside with one warning: the work starts again."""
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
    """The step that a checkpoint file was saved after; None if there is none or it is damaged. Needs no torch."""
    if not is_whole(path):
        return None
    with open(path, "rb") as file:
        size = header_size(file.read(DIGEST_BYTES + 8))
        return step_in(file.read(size)) if size is not None else None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file is there and has the digest that it begins with."""
    try:
        with open(path, "rb") as file:
            digest = file.read(DIGEST_BYTES)
            return hashlib.file_digest(file, "sha256").hexdigest().encode() == digest
    except FileNotFoundError:
        return False


def header_size(begin: bytes) -> int | None:
    """Bytes of the header, from the first bytes of a checkpoint file; None if they are not those of one."""
    size = int.from_bytes(begin[DIGEST_BYTES : DIGEST_BYTES + 8], "little")
    return size if len(begin) == DIGEST_BYTES + 8 and size <= MOST_HEADER_BYTES else None


def step_in(header: bytes) -> int:
    """The step that a header names, 0 where it names none. Raises as `facts_in`."""
    return int(facts_in(header).get("step", 0))


def facts_in(header: bytes) -> dict[str, Any]:
    """The facts in a header. Raises ValueError, KeyError or TypeError if it is none."""
    return json.loads(json.loads(header)["__metadata__"]["facts"])
