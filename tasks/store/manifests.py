"""Manifests: the list of an artifact's files, and the checks that a manifest is valid."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from tasks.store.keys import canonical_json
from tasks.store.metrics import METRICS_FILE

MANIFEST = "manifest.json"
# Timings: part of the artifact, but not of its content; other timings are the same result.
NOT_CONTENT = (METRICS_FILE,)
# No format that runs code when it is read.
ALLOWED_SUFFIXES = (".safetensors", ".json", ".jsonl", ".toml", ".csv", ".png", ".html", ".txt", ".md")
# Files of tokenizers, read as text or as tables.
TOKENIZER_SUFFIXES = (".model", ".tiktoken", ".jinja", ".bpe")


class Damaged(Exception):
    """An artifact that differs from its manifest, or whose manifest is invalid."""


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Digest of an artifact's content: names and digests of all files but timings."""
    content = {name: facts["sha256"] for name, facts in files.items() if name not in NOT_CONTENT}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def parse_manifest(content: bytes, stage: str, key: str) -> dict[str, Any]:
    """Parse the manifest of the artifact of a key.

    Raises:
        Damaged: when it contradicts itself, cannot be read or belongs to another key.
    """
    try:
        manifest = json.loads(content)
        files = manifest["files"]
        if (manifest["stage"], manifest["key"]) != (stage, key):
            raise Damaged("its manifest belongs to another key")
        if manifest["digest"] != content_digest(files) or not isinstance(manifest["summary"], dict):
            raise Damaged("its manifest contradicts itself")
        if hashlib.sha256(canonical_json(manifest["inputs"]).encode()).hexdigest() != key:
            raise Damaged("its manifest names other inputs than its key")
        if odd := [name for name, facts in files.items() if not _plain(name) or not isinstance(facts["size"], int)]:
            raise Damaged(f"its manifest names {odd[0]!r}, which is not a file of an artifact")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest cannot be read ({type(error).__name__})") from error
    return manifest


def _plain(name: str) -> bool:
    """Return whether a name stays inside the artifact's folder and has a suffix that artifacts may have."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and str(path) == name and "\0" not in name
    return inside and name != MANIFEST and name.endswith(ALLOWED_SUFFIXES + TOKENIZER_SUFFIXES)
