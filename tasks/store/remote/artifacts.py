"""Artifacts in an object store: each writer uploads its files separately, then the first one creates the manifest."""

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Artifact, Ref, ref_of
from tasks.store.digests import plain_digest
from tasks.store.manifests import MANIFEST, Damaged, parse_manifest
from tasks.store.remote.objects import Remote

logger = logging.getLogger(__name__)
# Attempts to create a manifest: a damaged one in its place is moved to quarantine, unless that is forbidden.
CREATIONS = 3


@dataclass(frozen=True)
class RemoteManifest:
    """A valid manifest in the object store. files: the folder of its files."""

    ref: Ref
    manifest: dict[str, Any]
    content: bytes
    files: str


class PublishedArtifacts:
    """The artifacts under one URL."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def read(self, stage: str, key: str) -> RemoteManifest | None:
        """Read the manifest in the object store; an invalid one is moved to quarantine and counts as absent."""
        place = place_of(stage, key)
        content = self.remote.read(f"{place}/{MANIFEST}")
        if content is None:
            return None
        try:
            manifest = parse_manifest(content, stage, key)
        except Damaged as damage:
            self.quarantine(stage, key, content, str(damage))
            return None
        return RemoteManifest(ref_of(stage, key, manifest), manifest, content, files_folder(place, content))

    def has_files(self, theirs: RemoteManifest) -> bool:
        """Return whether all files exist with their sizes, without downloading; if not, quarantine the manifest."""
        there = self.remote.entries(theirs.files)
        for name, facts in theirs.manifest["files"].items():
            entry = there.get(f"{theirs.files}/{name}")
            if entry is None or entry.size != facts["size"]:
                why = f"{name} is missing" if entry is None else f"{name} has {entry.size} bytes, not {facts['size']}"
                self.quarantine(theirs.ref.stage, theirs.ref.key, theirs.content, why)
                return False
        return True

    def send(self, artifact: Artifact) -> RemoteManifest | None:
        """Upload the files, then create the manifest. Return the manifest that was there before, if there was one.

        Raises:
            EnvironmentFault: when a damaged manifest is there and cannot be replaced.
        """
        place, content = place_of(artifact.ref.stage, artifact.ref.key), (artifact.folder / MANIFEST).read_bytes()
        files = files_folder(place, content)
        for name in artifact.manifest["files"]:
            self.remote.upload(artifact.folder / name, f"{files}/{name}")
        for _ in range(CREATIONS):
            if self.remote.create(f"{place}/{MANIFEST}", content):
                return None
            theirs = self.read(artifact.ref.stage, artifact.ref.key)
            if theirs is not None:
                with suppress(EnvironmentFault):
                    self.remote.delete(self.remote.entries(files))
                return theirs
        raise EnvironmentFault(f"{place}/{MANIFEST} in {self.remote.url} is damaged and cannot be replaced; delete it")

    def download(self, theirs: RemoteManifest, name: str, folder: Path) -> None:
        """Download one file and verify it, and try again once if it is damaged.

        Raises:
            Damaged: when the file is missing or damaged.
        """
        facts = theirs.manifest["files"][name]
        for _ in range(2):
            try:
                self.remote.download(f"{theirs.files}/{name}", folder / name, facts["size"])
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            if (folder / name).stat().st_size == facts["size"] and plain_digest(folder / name) == facts["sha256"]:
                return
        raise Damaged(f"{name} has another digest than it was written with")

    def quarantine(self, stage: str, key: str, content: bytes, why: str) -> None:
        """Move a manifest to quarantine, so that the artifact is absent; the copy is kept for inspection."""
        place = f"{place_of(stage, key)}/{MANIFEST}"
        kept = f"quarantine/{stage}-{key[:12]}-{_digits(content)}.json"
        try:
            self.remote.write(kept, content)
            if self.remote.read(place) == content:
                self.remote.delete([place])
            where = f"its manifest was moved to {kept}"
        except EnvironmentFault:
            where = "it cannot be moved away, the store is not writable"
        logger.warning(
            "artifact %s %s in %s is damaged (%s); %s; it is computed again",
            stage,
            key[:12],
            self.remote.url,
            why,
            where,
        )


def place_of(stage: str, key: str) -> str:
    """Return the folder of a key."""
    return f"artifacts/{stage}/{key}"


def files_folder(place: str, content: bytes) -> str:
    """Return the folder of a manifest's files, inside the folder of its key."""
    return f"{place}/{_digits(content)}"


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
