"""One file that holds a checkpoint: all of it or the one before, never half, and nothing that runs when it is read."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.files import flush

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
DIGEST_BYTES = 64


class CheckpointFile:
    """A safetensors file with the facts in its header, behind 64 digits of its SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size])
        return load(content), json.loads(header["__metadata__"]["facts"])
