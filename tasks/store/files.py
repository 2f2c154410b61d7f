"""Write files that survive a power failure, and list folders that contain only plain files."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text that ends with one line break, flushed to the disk."""
    write_flushed(path, (text.rstrip("\n") + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file that shares the disk space of another one, or a copy where the two are on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def flush(path: Path) -> None:
    """Flush a file's content or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder under `folder`, and `folder` itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(parent) / name)
        flush(Path(parent))


def list_files(folder: Path) -> list[str]:
    """List the relative names of all files under `folder`.

    Raises:
        ValueError: when an entry is neither a file nor a folder.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent) / name
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                found.append(str(path.relative_to(folder)))
            elif not stat.S_ISDIR(mode):
                raise ValueError(f"{path.relative_to(folder)} is neither a file nor a folder")
    return sorted(found)


@contextmanager
def made_once(target: Path) -> Iterator[Path]:
    """Make a temporary folder that becomes `target` at the end of the block, complete or not at all.

    If another process makes the same folder first, its folder stays: the content is equal.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix="partial-"))
    try:
        yield partial
        os.replace(partial, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
