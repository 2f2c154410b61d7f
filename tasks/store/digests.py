"""Digests of files, computed once per machine and cached until the file changes."""

import hashlib
import json
import os
import threading
import time
from pathlib import Path

from tasks.store.files import list_files

# A file written within this time before being hashed may change again with the same time stamp.
SETTLED_SECONDS = 2.0


def plain_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_files(first: Path, second: Path) -> bool:
    """Return whether two folders have files of the same names and contents.

    Raises:
        ValueError: when an entry is neither a file nor a folder.
    """
    names = list_files(first)
    return names == list_files(second) and all(
        (first / name).samefile(second / name) or plain_digest(first / name) == plain_digest(second / name)
        for name in names
    )


class Digests:
    """SHA-256 of files, cached in one file by (device, inode, size, time of last change).

    The cache is only an aid: if it is lost, damaged or read-only, it costs time but never correctness. A change that
    keeps size and time stamps (a failing disk) goes unnoticed here; `crash doctor --verify` reads everything.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, str] | None = None

    def __call__(self, path: Path) -> str:
        """Return the digest of a file."""
        status = os.stat(path)
        name = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        with self._lock:
            if self._known is None:
                self._known = self._read()
            if name in self._known:
                return self._known[name]
        digest = plain_digest(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
            self._remember(name, digest)
        return digest

    def _read(self) -> dict[str, str]:
        known: dict[str, str] = {}
        try:
            lines = self.memory.read_text(errors="replace").splitlines()
        except OSError:
            return known
        for line in lines:
            try:
                name, digest = json.loads(line)
            except ValueError:
                continue
            if isinstance(digest, str) and len(digest) == 64:
                known[str(name)] = digest
        return known

    def _remember(self, name: str, digest: str) -> None:
        line = json.dumps([name, digest]) + "\n"
        with self._lock:
            assert self._known is not None
            self._known[name] = digest
            try:
                # One short write to a file opened for appending does not interleave with another process's.
                handle = os.open(self.memory, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    os.write(handle, line.encode())
                finally:
                    os.close(handle)
            except OSError:
                return
