"""A store over an object store, with a local folder in front of it.

<url>/artifacts/<stage>/<key>/manifest.json                 written last, by whoever is first
<url>/artifacts/<stage>/<key>/<digits of the manifest>/     its files, apart from those of another writer
<url>/artifacts/<stage>/<key>/used                          rewritten when somebody finds it
<url>/leases, work, runs, quarantine                        who computes, checkpoints, records, what was damaged

What is found there is not downloaded until it is opened. What the local folder has is served without the network.
"""

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Artifact, Ref, Store, ref_of, rename_new, temporary_prefix
from tasks.store.digests import plain_digest
from tasks.store.files import flush_tree, write_flushed
from tasks.store.leases import Leases, LeaseTimes
from tasks.store.locks import key_lock
from tasks.store.manifests import MANIFEST, NOT_CONTENT, Damaged, parse_manifest
from tasks.store.remote import Remote
from tasks.store.remote_work import RemoteWork

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
# After a failure that does not matter, what does not matter is not tried for this time.
PAUSE_SECONDS = 60.0
METRICS_FILE = NOT_CONTENT[0]
# Each time a damaged manifest is met it is taken away, unless that is forbidden.
CREATIONS = 3


@dataclass(frozen=True)
class Published:
    """A manifest in the object store that can be believed. files: the folder of its files."""

    ref: Ref
    manifest: dict[str, Any]
    content: bytes
    files: str


class FrontedStore(Store):
    """Artifacts under a URL, shared by several machines, each with a folder of its own in front.

    times: of the leases.
    """

    def __init__(self, root: Path, remote: Remote, times: LeaseTimes | None = None) -> None:
        super().__init__(root)
        self.remote = remote
        self.leases = Leases(remote, times)
        self.work = RemoteWork(remote)
        self._pause_ends = 0.0

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact, here or in the object store, which then has it too; its files may have to be downloaded."""
        here = self._find_here(stage, key)
        if here is not None:
            return self._try(lambda: self._agreed(here)) or here
        theirs = self._published(stage, key)
        if theirs is None or not self._has_files(theirs):
            return None
        return self._artifact(theirs)

    def open(self, ref: Ref) -> Path:
        """The folder of an artifact, downloaded if need be, and verified. Raises EnvironmentFault if it is gone."""
        here = self._find_here(ref.stage, ref.key)
        if here is not None and here.ref.digest == ref.digest:
            return here.folder
        with key_lock(self.root / "locks", f"fetch-{ref.stage}", ref.key):
            here = self._find_here(ref.stage, ref.key)
            if here is not None and here.ref.digest == ref.digest:
                return here.folder
            theirs = self._published(ref.stage, ref.key)
            if theirs is not None and theirs.ref.digest == ref.digest and self._fetched(theirs):
                return self.folder(ref.stage, ref.key)
        raise EnvironmentFault(
            f"artifact {ref.stage} {ref.key[:12]} is no longer in {self.remote.url}; run the same command again to"
            " compute what is missing"
        )

    def publish(
        self,
        stage: str,
        key: str,
        written: Path,
        key_inputs: dict[str, Any],
        parents: Sequence[Ref] = (),
        summary: dict[str, Any] | None = None,
    ) -> Artifact:
        """Publish here, then in the object store; what the network refuses stays here for the next run to send."""
        artifact = super().publish(stage, key, written, key_inputs, parents, summary)
        try:
            return self._shared(artifact)
        except EnvironmentFault as fault:
            raise EnvironmentFault(
                f"{fault}. The finished {stage} {key[:12]} is kept in {self.root}, and the next run sends it"
            ) from fault

    @contextmanager
    def with_metrics(self, artifact: Artifact) -> Iterator[Artifact]:
        """The artifact with its metrics file, for which nothing else is downloaded."""
        if artifact.folder.is_dir() or METRICS_FILE not in artifact.manifest["files"]:
            yield artifact
            return
        theirs = self._try(lambda: self._published(artifact.ref.stage, artifact.ref.key))
        with self.publishing(artifact.ref.stage, artifact.ref.key) as folder:
            if theirs is not None:
                with suppress(Damaged):
                    self._try(lambda: self._download(theirs, METRICS_FILE, folder))
            yield replace(artifact, folder=folder)

    @contextmanager
    def lock(self, stage: str, key: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Only one process of all machines computes a key; the lease of a dead one is taken over."""
        with super().lock(stage, key, stopped), self.leases.hold(stage, key, stopped):
            yield

    def touch(self, artifact: Artifact) -> None:
        """Note here and there that somebody uses it now."""
        super().touch(artifact)
        self._try(lambda: self.remote.write(f"{_place(artifact.ref.stage, artifact.ref.key)}/used", b""))

    def work_folder(self, key: str) -> Path:
        """Folder for checkpoints of this key, with the one that is furthest of all machines'."""
        folder = super().work_folder(key)
        self._try(lambda: self.work.fetch(folder))
        return folder

    def keep_work(self, folder: Path) -> None:
        """Copy the checkpoint to the object store, beside the computation."""
        self.work.keep(folder)

    def settle_work(self, wanted: bool = True) -> None:
        """Wait for the copy."""
        self.work.settle(wanted)

    def forget_work(self, folder: Path) -> None:
        """Remove the checkpoints of what is finished, here and there."""
        super().forget_work(folder)
        self._try(lambda: self.work.forget(folder.name))

    def write_record(self, run_id: str, content: bytes) -> None:
        """Keep the record of a run here and there."""
        super().write_record(run_id, content)
        self._try(lambda: self.remote.write(f"runs/{run_id}.json", content))

    def read_records(self) -> dict[str, bytes]:
        """Records of the runs of all machines."""
        there = self._try(lambda: self.remote.read_many(self.remote.entries("runs"))) or {}
        return {name[len("runs/") : -len(".json")]: content for name, content in there.items()} | super().read_records()

    def writable(self) -> bool:
        """Whether artifacts can be added, here and there."""
        try:
            self.remote.check()
        except EnvironmentFault as fault:
            logger.warning("%s. What was computed before is served", fault)
            return False
        return super().writable()

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raise EnvironmentFault unless both places can be written, this one with that many bytes."""
        self.remote.check()
        if not super().writable():
            raise EnvironmentFault(f"the folder {self.root} in front of the store cannot be written (place.home)")
        self.check_free(needed_bytes)

    def _try(self, action: Callable[[], Result]) -> Result | None:
        """The action's result, or None with one warning: nothing that a run cannot do without."""
        if time.monotonic() < self._pause_ends:
            return None
        try:
            return action()
        except EnvironmentFault as fault:
            self._pause_ends = time.monotonic() + PAUSE_SECONDS
            logger.warning("%s. Going on with what is in %s", fault, self.root)
            return None

    def _artifact(self, theirs: Published) -> Artifact:
        return Artifact(theirs.ref, self.folder(theirs.ref.stage, theirs.ref.key), theirs.manifest)

    def _agreed(self, here: Artifact) -> Artifact:
        """What all machines have for the key of an artifact that is here."""
        theirs = self._published(here.ref.stage, here.ref.key)
        return self._shared(here) if theirs is None else self._accepted(theirs, here)

    def _accepted(self, theirs: Published, here: Artifact) -> Artifact:
        """The one that was first. One with the same content but other timings stays."""
        if theirs.ref.digest == here.ref.digest:
            return here
        logger.info("%s %s was published by another machine first; theirs counts", here.ref.stage, here.ref.key[:12])
        self._discard(here.folder)
        return self._artifact(theirs)

    def _shared(self, artifact: Artifact) -> Artifact:
        """Send an artifact: its files, then the manifest. If another one is there meanwhile, that one counts."""
        place, content = _place(artifact.ref.stage, artifact.ref.key), (artifact.folder / MANIFEST).read_bytes()
        files = files_folder(place, content)
        for name in artifact.manifest["files"]:
            self.remote.upload(artifact.folder / name, f"{files}/{name}")
        for _ in range(CREATIONS):
            if self.remote.create(f"{place}/{MANIFEST}", content):
                return artifact
            theirs = self._published(artifact.ref.stage, artifact.ref.key)
            if theirs is not None:
                self._try(lambda: self.remote.delete(self.remote.entries(files)))
                return self._accepted(theirs, artifact)
        raise EnvironmentFault(f"{place}/{MANIFEST} in {self.remote.url} is damaged and cannot be replaced; delete it")

    def _published(self, stage: str, key: str) -> Published | None:
        """The manifest in the object store; one that cannot be believed is moved to quarantine and is none."""
        place = _place(stage, key)
        content = self.remote.read(f"{place}/{MANIFEST}")
        if content is None:
            return None
        try:
            manifest = parse_manifest(content, stage, key)
        except Damaged as damage:
            self._quarantine_there(stage, key, content, str(damage))
            return None
        return Published(ref_of(stage, key, manifest), manifest, content, files_folder(place, content))

    def _has_files(self, theirs: Published) -> bool:
        """Whether all files are there in their sizes, seen without downloading; else they go to quarantine."""
        there = self.remote.entries(theirs.files)
        for name, facts in theirs.manifest["files"].items():
            entry = there.get(f"{theirs.files}/{name}")
            if entry is None or entry.size != facts["size"]:
                why = f"{name} is missing" if entry is None else f"{name} has {entry.size} bytes, not {facts['size']}"
                self._quarantine_there(theirs.ref.stage, theirs.ref.key, theirs.content, why)
                return False
        return True

    def _fetched(self, theirs: Published) -> bool:
        """Download an artifact into its folder, complete or not at all; a damaged one goes to quarantine."""
        stage, key = theirs.ref.stage, theirs.ref.key
        with self.publishing(stage, key) as out:
            try:
                for name in theirs.manifest["files"]:
                    self._download(theirs, name, out)
            except Damaged as damage:
                self._quarantine_there(stage, key, theirs.content, str(damage))
                return False
            flush_tree(out)
            write_flushed(out / MANIFEST, theirs.content)
            target = self.folder(stage, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._discard(target)
            rename_new(out, target)
        return True

    def _download(self, theirs: Published, name: str, folder: Path) -> None:
        """Download one file and verify it, a second time if the first went wrong. Raises Damaged."""
        facts = theirs.manifest["files"][name]
        for _ in range(2):
            try:
                self.remote.download(f"{theirs.files}/{name}", folder / name, facts["size"])
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            if (folder / name).stat().st_size == facts["size"] and plain_digest(folder / name) == facts["sha256"]:
                return
        raise Damaged(f"{name} has another digest than it was written with")

    def _discard(self, folder: Path) -> None:
        """Remove an artifact here, in one step for whoever looks."""
        if not folder.exists():
            return
        waste = self.root / "tmp" / f"{temporary_prefix()}replaced-{time.time_ns()}"
        waste.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.rename(folder, waste)
            shutil.rmtree(waste, ignore_errors=True)

    def _quarantine_there(self, stage: str, key: str, content: bytes, why: str) -> None:
        """Take a manifest away, so that the artifact is absent; it is kept to be looked at."""
        place = f"{_place(stage, key)}/{MANIFEST}"
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


_open_stores: dict[tuple[int, str, str], FrontedStore] = {}
_opening = threading.Lock()


def open_store(root: Path | str, url: str | None = None) -> Store:
    """The store in a folder, or the one at a URL with that folder in front of it (one for all threads of a process)."""
    if url is None:
        return Store(Path(root))
    with _opening:
        name = (os.getpid(), str(root), url)
        if name not in _open_stores:
            _open_stores[name] = FrontedStore(Path(root), Remote(url))
        return _open_stores[name]


def _place(stage: str, key: str) -> str:
    return f"artifacts/{stage}/{key}"


def files_folder(place: str, content: bytes) -> str:
    """Where the files lie that a manifest speaks of, in the folder of its key."""
    return f"{place}/{_digits(content)}"


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
