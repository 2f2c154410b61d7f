"""A bundle's folder, as a stranger may have made it: looked at without following links, then copied.

Everything else looks at the copy, so that nobody can change a file between its check and its use.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import RefusedError
from tasks.exchange.names import MANIFEST_FILE, MAX_FILES, SIGNATURE_FILE, is_allowed, max_bytes

CHUNK_BYTES = 4 << 20
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def list_bundle(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a bundle, without reading one.

    Raises:
        RefusedError: when `folder` is not a folder, an entry is not a regular file with one name, has another name
            than a bundle's files, or is larger than a file of its name may be, or manifest or signature is missing.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise RefusedError(f"expected a folder, found {found} (archives are unpacked by who received them)")
    sizes: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(sizes) == MAX_FILES:
                raise RefusedError(f"more than {MAX_FILES} files")
            sizes[entry.name] = _size(entry.name, entry.stat(follow_symlinks=False))
    if absent := [name for name in (MANIFEST_FILE, SIGNATURE_FILE) if name not in sizes]:
        raise RefusedError(f"{absent[0]} is missing: every bundle has a signed manifest")
    return sizes


def read_small(folder: Path, name: str) -> bytes:
    """Read a file of a bundle whole. name: an allowed one.

    Raises:
        RefusedError: when it is larger than a file of its name may be, or is not a regular file.
    """
    limit = max_bytes(name)
    with opened(folder, name) as handle:
        content = os.read(handle, limit + 1)
        while len(content) <= limit and (more := os.read(handle, limit + 1 - len(content))):
            content += more
    if len(content) > limit:
        raise RefusedError(f"{name}: larger than the {limit:,} bytes that it may have")
    return content


@contextmanager
def opened(folder: Path, name: str) -> Iterator[int]:
    """Open a file of a bundle for reading, as a file descriptor, if it is a regular file and no link.

    Raises:
        RefusedError: when it is not.
    """
    try:
        # Without waiting: the other end of a pipe would be awaited for ever.
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT, errno.ENXIO):
            raise RefusedError(f"{name}: not a regular file") from None
        raise
    try:
        _size(name, os.fstat(handle))
        yield handle
    finally:
        os.close(handle)


def _size(name: str, status: os.stat_result) -> int:
    if not is_allowed(name):
        raise RefusedError(f"unexpected file {_shown(name)}: a bundle has only files with names of its format")
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{name}: not a regular file, but {_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}")
    if status.st_nlink != 1:
        raise RefusedError(f"{name}: not a regular file with one name: it has {status.st_nlink} (hard links)")
    if status.st_size > max_bytes(name):
        raise RefusedError(f"{name}: {status.st_size:,} bytes, more than the {max_bytes(name):,} that it may have")
    return status.st_size


def _shown(name: str) -> str:
    """Return a name of a stranger for a message: within bounds, and without control characters."""
    return ascii(name if len(name) <= 64 else f"{name[:61]}...")
