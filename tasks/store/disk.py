"""The local disk: check that it is writable and has room, and explain its errors."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from tasks.core.errors import EnvironmentFault

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def writable(root: Path) -> bool:
    """Return whether files can be added under a folder that may not exist yet."""
    existing = _existing(root)
    return os.access(existing, os.W_OK) and not os.statvfs(existing).f_flag & os.ST_RDONLY


def check_free(root: Path, needed_bytes: int) -> None:
    """Check that the disk of a store has that many bytes free.

    Raises:
        EnvironmentFault: when it has not.
    """
    free = shutil.disk_usage(_existing(root)).free
    if free < needed_bytes:
        raise EnvironmentFault(
            f"the store {root} needs about {_megabytes(needed_bytes)} for this run but has {_megabytes(free)}"
            " free; free some with `crash gc`, or choose another disk (place.store)"
        )


def explained(error: OSError, root: Path, written: Path | None = None) -> Exception:
    """Return an EnvironmentFault with advice for an error of the disk, and any other error unchanged.

    written: folder of the artifact that was being written.
    """
    if error.errno not in DISK_ERRORS:
        return error
    try:
        free = _megabytes(shutil.disk_usage(root).free)
    except OSError:
        free = "unknown"
    taken = f"; the artifact needs more than the {_size(written):,} bytes written so far" if written else ""
    return EnvironmentFault(
        f"writing {error.filename or written or root} failed: {error.strerror} ({free} free at {root}"
        f"{taken}); nothing half written is kept. Free space with `crash gc` or choose another folder"
        " (place.store), then run again"
    )


def _existing(root: Path) -> Path:
    return next(folder for folder in (root, *root.absolute().parents) if folder.exists())


def _size(folder: Path) -> int:
    """Sum the bytes of the files under a folder; files that vanish meanwhile are skipped."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
