"""The store: artifacts on disk, each complete or absent, found by key and verified by digest.

<root>/artifacts/<stage>/<key>/   files and manifest.json
<root>/tmp/                       artifacts being written
<root>/work/<key>/                checkpoints of a computation that was not finished
<root>/locks/                     one kernel lock per key being computed
<root>/quarantine/                entries that failed verification, kept to be looked at
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
from tasks.store.files import flush, flush_tree, list_files, write_flushed
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
    """What stages pass to one another: which artifact, and its content's digest. summary: small numbers about it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    digest: str
    summary: dict[str, Any] = {}

    def cache_view(self) -> dict[str, str]:
        """What identifies it in another key: its content."""
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
        """Where the artifact of a key lies or would lie."""
        return self.root / "artifacts" / stage / key

    def keys(self, stage: str) -> list[str]:
        """Keys of what the store has of a stage, unverified."""
        return sorted(path.name for path in (self.root / "artifacts" / stage).glob("*"))

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact, verified; a damaged one is moved to quarantine with one warning and is a miss."""
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
        """The folder of an artifact, verified. Raises EnvironmentFault if it is gone: run again to compute it anew."""
        found = self.find(ref.stage, ref.key)
        if found is None or found.ref.digest != ref.digest:
            raise EnvironmentFault(
                f"artifact {ref.stage} {ref.key[:12]} is no longer in {self.root}; run the same command again to"
                " compute what is missing"
            )
        return found.folder

    @contextmanager
    def publishing(self, stage: str, key: str) -> Iterator[Path]:
        """A temporary folder on the store's file system, removed at the end whatever happens."""
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

        Files are flushed, the manifest is written last, the folder is renamed. If somebody else published the key
        meanwhile, theirs stays. Raises EnvironmentFault with path and free space when the disk refuses.
        """
        try:
            return self._publish(stage, key, written, key_inputs, parents, summary or {})
        except OSError as error:
            raise self.explained(error, written) from error

    @contextmanager
    def with_metrics(self, artifact: Artifact) -> Iterator[Artifact]:
        """The artifact with at least its metrics file in its folder, for the time of the block."""
        yield artifact

    def work_folder(self, key: str) -> Path:
        """Folder for checkpoints of this key; survives a kill."""
        folder = self.root / "work" / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.explained(error) from error
        return folder

    def keep_work(self, folder: Path) -> None:
        """A checkpoint was saved in a work folder."""

    def settle_work(self, wanted: bool = True) -> None:
        """Wait until what `keep_work` began is done; not wanted: what it has not begun is left out."""

    def forget_work(self, folder: Path) -> None:
        """Remove the work folder of what is finished."""
        shutil.rmtree(folder, ignore_errors=True)

    def write_record(self, run_id: str, content: bytes) -> None:
        """Keep the record of a run; where that cannot be done, the run goes on without."""
        path = self.root / "runs" / f"{run_id}.json"
        # A read-only store still serves hits; the record is a convenience.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)

    def read_record(self, run_id: str) -> bytes | None:
        """The record of a run of this machine."""
        try:
            return (self.root / "runs" / f"{run_id}.json").read_bytes()
        except OSError:
            return None

    def read_records(self) -> dict[str, bytes]:
        """Records of all runs by their ids."""
        found = {}
        for path in (self.root / "runs").glob("*.json"):
            with suppress(OSError):
                found[path.stem] = path.read_bytes()
        return found

    @contextmanager
    def lock(self, stage: str, key: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Only one process at a time computes a key; the kernel frees the lock of a dead one. See `key_lock`."""
        with key_lock(self.root / "locks", stage, key, stopped=stopped):
            yield

    def touch(self, artifact: Artifact) -> None:
        """Note that somebody uses it now, so that `gc` leaves it alone."""
        with suppress(OSError):
            os.utime(artifact.folder)

    def writable(self) -> bool:
        """Whether artifacts can be added; a store that is only read still serves what it has."""
        return disk.writable(self.root)

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raise EnvironmentFault unless the store can take that many bytes."""
        if not self.writable():
            raise EnvironmentFault(
                f"the store {self.root} cannot be written; change its permissions or choose another (place.store)"
            )
        disk.check_free(self.root, needed_bytes)

    def explained(self, error: OSError, written: Path | None = None) -> Exception:
        """What a user can do about a disk that refuses. written: folder of the artifact that was being written."""
        return disk.explained(error, self.root, written)

    def verify_everything(self) -> list[Path]:
        """Read every artifact in full; damaged ones are moved to quarantine and returned."""
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
    """How names of this process's temporary folders begin: which process, on which machine."""
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
    """Give a finished folder its name, unless one is there already; the disk has confirmed it."""
    try:
        os.rename(written, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return
    flush(target.parent)
