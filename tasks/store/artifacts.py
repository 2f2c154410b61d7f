"""The store: artifacts on disk, each complete or absent, found by key and verified by digest.

<root>/artifacts/<stage>/<key>/   files and manifest.json
<root>/tmp/                       artifacts being written
<root>/work/<key>/                checkpoints of a computation that was not finished
<root>/locks/                     one kernel lock per key being computed
<root>/quarantine/                entries that failed verification, kept for inspection
"""

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import CrashError, EnvironmentFault
from tasks.store import disk
from tasks.store.digests import Digests, plain_digest
from tasks.store.files import flush, flush_tree, list_files, replace_file, write_flushed
from tasks.store.locks import key_lock
from tasks.store.manifests import (
    ALLOWED_SUFFIXES,
    MANIFEST,
    TOKENIZER_SUFFIXES,
    Damaged,
    content_digest,
    parse_manifest,
)

logger = logging.getLogger(__name__)


class Ref(BaseModel):
    """Reference that stages pass to one another: an artifact and its content's digest. summary: small numbers of it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    digest: str
    summary: dict[str, Any] = {}

    def cache_view(self) -> dict[str, str]:
        """The values that identify the artifact in another key: its stage and its content."""
        return {"stage": self.stage, "digest": self.digest}


@dataclass(frozen=True)
class Artifact:
    """A verified artifact on disk."""

    ref: Ref
    folder: Path
    manifest: dict[str, Any]


class Store:
    """Artifacts under one folder of a file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.digests = Digests(self.root / "digests.jsonl")

    def folder(self, stage: str, key: str) -> Path:
        """Return the folder of the artifact of a key, whether it exists or not."""
        return self.root / "artifacts" / stage / key

    def keys(self, stage: str) -> list[str]:
        """List the keys of a stage's artifacts in the store, unverified."""
        return sorted(path.name for path in (self.root / "artifacts" / stage).glob("*"))

    def find(self, stage: str, key: str) -> Artifact | None:
        """Find and verify an artifact; a damaged one is moved to quarantine with one warning and counts as a miss."""
        return self._find_here(stage, key)

    def _find_here(self, stage: str, key: str) -> Artifact | None:
        folder = self.folder(stage, key)
        if folder.is_symlink() or not folder.is_dir():
            if folder.is_symlink() or folder.exists():
                self._quarantine(folder, "it is not a folder")
            return None
        try:
            manifest = self._verified(folder, self.digests)
        except Damaged as damage:
            self._quarantine(folder, str(damage))
            return None
        return Artifact(ref_of(stage, key, manifest), folder, manifest)

    def open(self, ref: Ref) -> Path:
        """Return the folder of an artifact, verified.

        Raises:
            EnvironmentFault: when it is gone; running again computes it again.
        """
        found = self.find(ref.stage, ref.key)
        if found is None or found.ref.digest != ref.digest:
            raise EnvironmentFault(
                f"artifact {ref.stage} {ref.key[:12]} is no longer in {self.root}; run the same command again to"
                " compute what is missing"
            )
        return found.folder

    @contextmanager
    def publishing(self, stage: str, key: str) -> Iterator[Path]:
        """Make a temporary folder on the store's file system, and remove it at the end of the block in any case."""
        folder = None
        try:
            parent = self.root / "tmp"
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{temporary_prefix()}{stage}-{key[:12]}-"))
            yield folder
        except OSError as error:
            raise self.explained(error, folder) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        stage: str,
        key: str,
        written: Path,
        key_inputs: dict[str, Any],
        parents: Sequence[Ref] = (),
        summary: dict[str, Any] | None = None,
    ) -> Artifact:
        """Make the files under `written` the artifact of a key, in one atomic step.

        Files are flushed, the manifest is written last, the folder is renamed. If another process has published the key
        meanwhile, its artifact stays.

        Raises:
            EnvironmentFault: when the disk fails; names the path and the free space.
        """
        try:
            return self._publish(stage, key, written, key_inputs, parents, summary or {})
        except OSError as error:
            raise self.explained(error, written) from error

    @contextmanager
    def with_metrics(self, artifact: Artifact) -> Iterator[Artifact]:
        """Provide the artifact with at least its metrics file in its folder, inside the block."""
        yield artifact

    def work_folder(self, key: str) -> Path:
        """Return the folder for checkpoints of this key, which survives a kill."""
        folder = self.root / "work" / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.explained(error) from error
        return folder

    def keep_work(self, folder: Path) -> None:
        """Take note that a checkpoint was saved in a work folder."""

    def settle_work(self, wanted: bool = True) -> None:
        """Wait for the work that `keep_work` has started; with wanted=False, drop what it has not started yet."""

    def forget_work(self, folder: Path) -> None:
        """Remove the work folder of a finished computation."""
        shutil.rmtree(folder, ignore_errors=True)

    def write_record(self, run_id: str, content: bytes) -> None:
        """Write the record of a run; if that fails, the run goes on without it."""
        path = self.root / "runs" / f"{run_id}.json"
        # A read-only store still serves hits; the record is a convenience.
        with suppress(OSError):
            replace_file(path, content)

    def read_record(self, run_id: str) -> bytes | None:
        """Read the record of a run of this machine; None if there is none."""
        try:
            return (self.root / "runs" / f"{run_id}.json").read_bytes()
        except OSError:
            return None

    def read_records(self) -> dict[str, bytes]:
        """Read the records of all runs, by run id."""
        found = {}
        for path in (self.root / "runs").glob("*.json"):
            with suppress(OSError):
                found[path.stem] = path.read_bytes()
        return found

    @contextmanager
    def lock(self, stage: str, key: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold a key's lock, so that one process at a time computes it; the kernel frees the lock of a dead one.

        See `key_lock`.
        """
        with key_lock(self.root / "locks", stage, key, stopped=stopped):
            yield

    def touch(self, artifact: Artifact) -> None:
        """Record that the artifact is in use now, so that `gc` keeps it."""
        with suppress(OSError):
            os.utime(artifact.folder)

    def writable(self) -> bool:
        """Return whether artifacts can be added; a read-only store still serves those that it has."""
        return disk.writable(self.root)

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Check that the store can take that many bytes.

        Raises:
            EnvironmentFault: when it cannot.
        """
        if not self.writable():
            raise EnvironmentFault(
                f"the store {self.root} cannot be written; change its permissions or choose another (place.store)"
            )
        disk.check_free(self.root, needed_bytes)

    def explained(self, error: OSError, written: Path | None = None) -> Exception:
        """Return the error to raise for an OSError, with advice. written: folder of the unfinished artifact."""
        return disk.explained(error, self.root, written)

    def verify_everything(self) -> list[Path]:
        """Read every artifact in full, move damaged ones to quarantine, and return their folders."""
        bad = []
        for folder in sorted((self.root / "artifacts").glob("*/*")):
            try:
                self._verified(folder, plain_digest)
            except Damaged as damage:
                self._quarantine(folder, str(damage))
                bad.append(folder)
        return bad

    def _publish(
        self, stage: str, key: str, written: Path, inputs: dict, parents: Sequence[Ref], summary: dict
    ) -> Artifact:
        files = {}
        for name in list_files(written):
            if not name.endswith(ALLOWED_SUFFIXES + TOKENIZER_SUFFIXES):
                raise CrashError(f"stage {stage} wrote {name}; artifacts hold only {', '.join(ALLOWED_SUFFIXES)}")
            files[name] = {"size": (written / name).stat().st_size, "sha256": plain_digest(written / name)}
        manifest = {
            "stage": stage,
            "key": key,
            "files": files,
            "digest": content_digest(files),
            "inputs": inputs,
            "parents": [parent.model_dump(include={"stage", "key", "digest"}) for parent in parents],
            "summary": summary,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": {"host": os.uname().nodename, "pid": os.getpid()},
        }
        flush_tree(written)
        write_flushed(written / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        target = self.folder(stage, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        rename_new(written, target)
        found = self._find_here(stage, key)
        assert found is not None, f"{target} was published and is not there"
        return found

    def _verified(self, folder: Path, digest_of: Any) -> dict[str, Any]:
        manifest = _read_manifest(folder)
        expected = manifest["files"]
        try:
            present = set(list_files(folder)) - {MANIFEST}
        except ValueError as error:
            raise Damaged(str(error)) from error
        if present != set(expected):
            odd = sorted(present ^ set(expected))[0]
            raise Damaged(f"{odd} is {'unexpected' if odd in present else 'missing'}")
        for name, facts in expected.items():
            path = folder / name
            if path.stat().st_size != facts["size"]:
                raise Damaged(f"{name} has {path.stat().st_size} bytes instead of {facts['size']}")
            if digest_of(path) != facts["sha256"]:
                raise Damaged(f"{name} has another digest than it was written with")
        return manifest

    def _quarantine(self, folder: Path, why: str) -> None:
        target = self.root / "quarantine" / f"{folder.parent.name}-{folder.name[:12]}-{time.time_ns()}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
            where = f"moved to {target}"
        except OSError:
            where = "it cannot be moved away, the store is not writable"
        name = f"{folder.parent.name} {folder.name[:12]}"
        logger.warning("artifact %s is damaged (%s); %s; it is computed again", name, why, where)


def temporary_prefix() -> str:
    """Return the prefix of this process's temporary folders: its process id and its machine."""
    return f"{os.getpid()}@{os.uname().nodename}-"


def ref_of(stage: str, key: str, manifest: dict[str, Any]) -> Ref:
    return Ref(stage=stage, key=key, digest=manifest["digest"], summary=manifest["summary"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_symlink():
        raise Damaged("its manifest is a link")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"its manifest cannot be read ({type(error).__name__})") from error
    return parse_manifest(content, folder.parent.name, folder.name)


def rename_new(written: Path, target: Path) -> None:
    """Rename a finished folder to its target, unless that exists already, and flush the entry to the disk."""
    try:
        os.rename(written, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return
    flush(target.parent)
