"""Files that survive a power cut, and folders that hold nothing but plain files."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and have the disk confirm it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text that ends with one line break, and have the disk confirm it."""
    write_flushed(path, (text.rstrip("\n") + "\n").encode())


def flush(path: Path) -> None:
    """Have the disk confirm a file's content or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder under `folder`, and itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(parent) / name)
        flush(Path(parent))


def list_files(folder: Path) -> list[str]:
    """Relative names of all files under `folder`. Raises ValueError at anything that is neither a file nor a folder."""
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
    """A temporary folder that becomes `target` at the end of the block, complete or not at all.

    Where another process makes the same and is first, its folder stays: equal content, so either will do.
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
