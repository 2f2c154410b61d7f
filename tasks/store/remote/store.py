"""A store over an object store, with a local folder as its cache.

<url>/artifacts/<stage>/<key>/manifest.json                 written last, by the first writer
<url>/artifacts/<stage>/<key>/<digits of the manifest>/     its files, apart from those of another writer
<url>/artifacts/<stage>/<key>/used                          rewritten when a run finds the artifact
<url>/leases, work, runs, quarantine                        holders of keys, checkpoints, records, damaged manifests

An artifact in the object store is not downloaded until it is opened. One in the local folder needs no network.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import EnvironmentFault
from tasks.store import disk
from tasks.store.artifacts import Artifact, Ref, Store, rename_new, temporary_prefix
from tasks.store.files import flush_tree, write_flushed
from tasks.store.locks import key_lock
from tasks.store.manifests import MANIFEST, Damaged
from tasks.store.metrics import METRICS_FILE
from tasks.store.remote.artifacts import PublishedArtifacts, RemoteManifest, place_of
from tasks.store.remote.checkpoints import RemoteWork
from tasks.store.remote.leases import Leases, LeaseTimes
from tasks.store.remote.objects import Remote

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
# After a failed optional call, optional calls are skipped for this time.
PAUSE_SECONDS = 60.0


class CachedRemoteStore(Store):
    """Artifacts under a URL, shared by several machines, each with a local folder as its cache.

    times: of the leases.
    """

    def __init__(self, root: Path, remote: Remote, times: LeaseTimes | None = None) -> None:
        super().__init__(root)
        self.remote = remote
        self.published = PublishedArtifacts(remote)
        self.leases = Leases(remote, times)
        self.work = RemoteWork(remote)
        self._pause_ends = 0.0

    def keys(self, stage: str) -> list[str]:
        """List the keys of local and remote artifacts; only local ones if the object store cannot be reached."""
        there = self._try(lambda: self.remote.entries(f"artifacts/{stage}")) or {}
        places = (name.split("/") for name in there if name.count("/") == 3 and name.endswith(f"/{MANIFEST}"))
        return sorted({*super().keys(stage), *(key for _, _, key, _ in places)})

    def find(self, stage: str, key: str) -> Artifact | None:
        """Find an artifact locally, and make the object store have it too; else find it there, without its files."""
        here = self._find_here(stage, key)
        if here is not None:
            return self._try(lambda: self._agreed(here)) or here
        theirs = self.published.read(stage, key)
        if theirs is None or not self.published.has_files(theirs):
            return None
        return self._artifact(theirs)

    def open(self, ref: Ref) -> Path:
        """Return the folder of an artifact, downloaded if necessary, and verified.

        Raises:
            EnvironmentFault: when it is gone.
        """
        here = self._find_here(ref.stage, ref.key)
        if here is not None and here.ref.digest == ref.digest:
            return here.folder
        with key_lock(self.root / "locks", f"fetch-{ref.stage}", ref.key):
            here = self._find_here(ref.stage, ref.key)
            if here is not None and here.ref.digest == ref.digest:
                return here.folder
            theirs = self.published.read(ref.stage, ref.key)
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
        """Publish locally, then in the object store.

        Raises:
            EnvironmentFault: when the network fails; the artifact stays here, and the next run sends it.
        """
        artifact = super().publish(stage, key, written, key_inputs, parents, summary)
        try:
            return self._shared(artifact)
        except EnvironmentFault as fault:
            raise EnvironmentFault(
                f"{fault}. The finished {stage} {key[:12]} is kept in {self.root}, and the next run sends it"
            ) from fault

    @contextmanager
    def with_metrics(self, artifact: Artifact) -> Iterator[Artifact]:
        """Provide the artifact with its metrics file; nothing else is downloaded."""
        if artifact.folder.is_dir() or METRICS_FILE not in artifact.manifest["files"]:
            yield artifact
            return
        theirs = self._try(lambda: self.published.read(artifact.ref.stage, artifact.ref.key))
        with self.publishing(artifact.ref.stage, artifact.ref.key) as folder:
            if theirs is not None:
                with suppress(Damaged):
                    self._try(lambda: self.published.download(theirs, METRICS_FILE, folder))
            yield replace(artifact, folder=folder)

    @contextmanager
    def lock(self, stage: str, key: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold a key's lock among the processes of all machines; the lease of a dead one is taken over."""
        with super().lock(stage, key, stopped), self.leases.hold(stage, key, stopped):
            yield

    def touch(self, artifact: Artifact) -> None:
        """Record locally and remotely that the artifact is in use now."""
        super().touch(artifact)
        self._try(lambda: self.remote.write(f"{place_of(artifact.ref.stage, artifact.ref.key)}/used", b""))

    def work_folder(self, key: str) -> Path:
        """Return the folder for checkpoints of this key, with the furthest checkpoint of all machines."""
        folder = super().work_folder(key)
        self._try(lambda: self.work.fetch(folder))
        return folder

    def keep_work(self, folder: Path) -> None:
        """Copy the checkpoint to the object store in the background."""
        self.work.keep(folder)

    def settle_work(self, wanted: bool = True) -> None:
        """Wait for the copy, see `RemoteWork.settle`."""
        self.work.settle(wanted)

    def forget_work(self, folder: Path) -> None:
        """Remove the checkpoints of a finished computation, locally and remotely."""
        super().forget_work(folder)
        self._try(lambda: self.work.forget(folder.name))

    def write_record(self, run_id: str, content: bytes) -> None:
        """Write the record of a run locally and remotely."""
        super().write_record(run_id, content)
        self._try(lambda: self.remote.write(f"runs/{run_id}.json", content))

    def read_records(self) -> dict[str, bytes]:
        """Read the records of the runs of all machines."""
        there = self._try(lambda: self.remote.read_many(self.remote.entries("runs"))) or {}
        return {name[len("runs/") : -len(".json")]: content for name, content in there.items()} | super().read_records()

    def writable(self) -> bool:
        """Return whether artifacts can be added, locally and remotely."""
        try:
            self.remote.check()
        except EnvironmentFault as fault:
            logger.warning("%s. What was computed before is served", fault)
            return False
        return super().writable()

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Check that both places can be written, the local one with that many bytes.

        Raises:
            EnvironmentFault: when one cannot.
        """
        self.remote.check()
        if not super().writable():
            raise EnvironmentFault(f"the folder {self.root} in front of the store cannot be written (place.home)")
        disk.check_free(self.root, needed_bytes)

    def _try(self, action: Callable[[], Result]) -> Result | None:
        """Return the result of an optional action, or None with one warning if the object store fails."""
        if time.monotonic() < self._pause_ends:
            return None
        try:
            return action()
        except EnvironmentFault as fault:
            self._pause_ends = time.monotonic() + PAUSE_SECONDS
            logger.warning("%s. Going on with what is in %s", fault, self.root)
            return None

    def _artifact(self, theirs: RemoteManifest) -> Artifact:
        return Artifact(theirs.ref, self.folder(theirs.ref.stage, theirs.ref.key), theirs.manifest)

    def _agreed(self, here: Artifact) -> Artifact:
        """Return the artifact that all machines have for the key of a local artifact."""
        theirs = self.published.read(here.ref.stage, here.ref.key)
        return self._shared(here) if theirs is None else self._accepted(theirs, here)

    def _accepted(self, theirs: RemoteManifest, here: Artifact) -> Artifact:
        """Return the artifact that was published first. A local one with the same content but other timings stays."""
        if theirs.ref.digest == here.ref.digest:
            return here
        logger.info("%s %s was published by another machine first; theirs counts", here.ref.stage, here.ref.key[:12])
        self._discard(here.folder)
        return self._artifact(theirs)

    def _shared(self, artifact: Artifact) -> Artifact:
        """Send an artifact: its files, then the manifest. If another one was published meanwhile, return that one."""
        theirs = self.published.send(artifact)
        return artifact if theirs is None else self._accepted(theirs, artifact)

    def _fetched(self, theirs: RemoteManifest) -> bool:
        """Download an artifact into its folder, complete or not at all; a damaged one goes to quarantine."""
        stage, key = theirs.ref.stage, theirs.ref.key
        with self.publishing(stage, key) as out:
            try:
                for name in theirs.manifest["files"]:
                    self.published.download(theirs, name, out)
            except Damaged as damage:
                self.published.quarantine(stage, key, theirs.content, str(damage))
                return False
            flush_tree(out)
            write_flushed(out / MANIFEST, theirs.content)
            target = self.folder(stage, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._discard(target)
            rename_new(out, target)
        return True

    def _discard(self, folder: Path) -> None:
        """Remove a local artifact, atomically for other processes."""
        if not folder.exists():
            return
        waste = self.root / "tmp" / f"{temporary_prefix()}replaced-{time.time_ns()}"
        waste.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.rename(folder, waste)
            shutil.rmtree(waste, ignore_errors=True)


_open_stores: dict[tuple[int, str, str], CachedRemoteStore] = {}
_opening = threading.Lock()


def open_store(root: Path | str, url: str | None = None) -> Store:
    """Open the store in a folder, or the one at a URL with that folder as its cache (one object per process)."""
    if url is None:
        return Store(Path(root))
    with _opening:
        name = (os.getpid(), str(root), url)
        if name not in _open_stores:
            _open_stores[name] = CachedRemoteStore(Path(root), Remote(url))
        return _open_stores[name]
