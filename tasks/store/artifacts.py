"""The store: artifacts on disk, each complete or absent, found by key and verified by digest.

<root>/artifacts/<stage>/<key>/   files and manifest.json
<root>/tmp/                       artifacts being written
<root>/work/<key>/                checkpoints of a computation that was not finished
<root>/locks/                     one kernel lock per key being computed
<root>/quarantine/                entries that failed verification, kept to be looked at
"""

import errno
import hashlib
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
from tasks.store.digests import Digests, plain_digest
from tasks.store.files import flush, flush_tree, list_files, write_flushed
from tasks.store.keys import canonical_json
from tasks.store.locks import key_lock

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# Timings: they belong to the artifact, but an artifact with other timings is the same result.
NOT_CONTENT = ("metrics.jsonl",)
# Nothing that runs when it is read.
ALLOWED_SUFFIXES = (".safetensors", ".json", ".jsonl", ".toml", ".csv", ".png", ".html", ".txt", ".md")
# Files of tokenizers, read as text or as tables.
TOKENIZER_SUFFIXES = (".model", ".tiktoken", ".jinja", ".bpe")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


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

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact, verified; a damaged one is moved to quarantine with one warning and is a miss."""
        folder = self.folder(stage, key)
        if folder.is_symlink() or not folder.is_dir():
            if folder.is_symlink() or folder.exists():
                self._quarantine(folder, "it is not a folder")
            return None
        try:
            manifest = self._verified(folder, self.digests)
        except _Damaged as damage:
            self._quarantine(folder, str(damage))
            return None
        return Artifact(_ref(stage, key, manifest), folder, manifest)

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

    def work_folder(self, key: str) -> Path:
        """Folder for checkpoints of this key; survives a kill."""
        folder = self.root / "work" / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.explained(error) from error
        return folder

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
        existing = self._existing()
        return os.access(existing, os.W_OK) and not os.statvfs(existing).f_flag & os.ST_RDONLY

    def _existing(self) -> Path:
        return next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raise EnvironmentFault unless the store can take that many bytes."""
        if not self.writable():
            raise EnvironmentFault(
                f"the store {self.root} cannot be written; change its permissions or choose another (place.store)"
            )
        free = shutil.disk_usage(self._existing()).free
        if free < needed_bytes:
            raise EnvironmentFault(
                f"the store {self.root} needs about {_megabytes(needed_bytes)} for this run but has {_megabytes(free)}"
                " free; free some with `crash gc`, or choose another disk (place.store)"
            )

    def explained(self, error: OSError, written: Path | None = None) -> Exception:
        """What a user can do about a disk that refuses; the error itself where it is not the disk's.

        written: folder of the artifact that was being written.
        """
        if error.errno not in DISK_ERRORS:
            return error
        try:
            free = _megabytes(shutil.disk_usage(self.root).free)
        except OSError:
            free = "unknown"
        taken = f"; the artifact needs more than the {_size(written):,} bytes written so far" if written else ""
        return EnvironmentFault(
            f"writing {error.filename or written or self.root} failed: {error.strerror} ({free} free at {self.root}"
            f"{taken}); nothing half written is kept. Free space with `crash gc` or choose another folder"
            " (place.store), then run again"
        )

    def verify_everything(self) -> list[Path]:
        """Read every artifact in full; damaged ones are moved to quarantine and returned."""
        bad = []
        for folder in sorted((self.root / "artifacts").glob("*/*")):
            try:
                self._verified(folder, plain_digest)
            except _Damaged as damage:
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
        _rename(written, target)
        found = self.find(stage, key)
        assert found is not None, f"{target} was published and is not there"
        return found

    def _verified(self, folder: Path, digest_of: Any) -> dict[str, Any]:
        manifest = _read_manifest(folder)
        expected = manifest["files"]
        try:
            present = set(list_files(folder)) - {MANIFEST}
        except ValueError as error:
            raise _Damaged(str(error)) from error
        if present != set(expected):
            odd = sorted(present ^ set(expected))[0]
            raise _Damaged(f"{odd} is {'unexpected' if odd in present else 'missing'}")
        for name, facts in expected.items():
            path = folder / name
            if path.stat().st_size != facts["size"]:
                raise _Damaged(f"{name} has {path.stat().st_size} bytes instead of {facts['size']}")
            if digest_of(path) != facts["sha256"]:
                raise _Damaged(f"{name} has another digest than it was written with")
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


class _Damaged(Exception):
    """An entry that is not what its manifest says."""


def temporary_prefix() -> str:
    """How names of this process's temporary folders begin: which process, on which machine."""
    return f"{os.getpid()}@{os.uname().nodename}-"


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Digest of an artifact's content: names and digests of all files but timings."""
    content = {name: facts["sha256"] for name, facts in files.items() if name not in NOT_CONTENT}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _ref(stage: str, key: str, manifest: dict[str, Any]) -> Ref:
    return Ref(stage=stage, key=key, digest=manifest["digest"], summary=manifest["summary"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.is_symlink():
            raise _Damaged("its manifest is a link")
        manifest = json.loads(path.read_bytes())
        names = manifest["files"]
        if (manifest["stage"], manifest["key"]) != (folder.parent.name, folder.name):
            raise _Damaged("its manifest belongs to another key")
        if manifest["digest"] != content_digest(names) or not isinstance(manifest["summary"], dict):
            raise _Damaged("its manifest contradicts itself")
        if hashlib.sha256(canonical_json(manifest["inputs"]).encode()).hexdigest() != folder.name:
            raise _Damaged("its manifest names other inputs than its key")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"its manifest cannot be read ({type(error).__name__})") from error
    return manifest


def _rename(written: Path, target: Path) -> None:
    try:
        os.rename(written, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return
    flush(target.parent)


def _size(folder: Path) -> int:
    """Bytes of the files under a folder; what vanishes meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
