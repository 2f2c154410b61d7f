"""A short folder for sockets: their paths may have about a hundred characters, and TMPDIR alone may be longer."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import EnvironmentFault

# The limit of macOS without the byte that ends the path; Linux allows 108.
LONGEST_PATH = 103
# Characters that multiprocessing appends to the folder: /pymp-xxxxxxxx/listener-xxxxxxxx.
BEHIND = 31
# Threads that start stages at the same time share the module `tempfile`.
_changing = threading.Lock()


@contextmanager
def short_temporary_folder() -> Iterator[None]:
    """Make `tempfile` create its folders, inside the block, where a socket's path is short enough.

    multiprocessing makes one folder for its sockets in each process, with access for its user only, on first use, and
    removes it at the end of the process.
    """
    with _changing:
        before = tempfile.tempdir
        tempfile.tempdir = str(folder_for_sockets())
        try:
            yield
        finally:
            tempfile.tempdir = before


def folder_for_sockets() -> Path:
    """Return the temporary folder of this process if its path is short enough, else the user's runtime folder or /tmp.

    Raises:
        EnvironmentFault: when none of them can be written.
    """
    usual = tempfile.gettempdir()
    choices = [usual, os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"]
    for choice in choices:
        if choice and len(os.fsencode(choice)) + BEHIND <= LONGEST_PATH and os.access(choice, os.W_OK | os.X_OK):
            return Path(choice)
    raise EnvironmentFault(
        f"the temporary folder {usual} has {len(os.fsencode(usual))} characters, which is too long for sockets, and"
        f" /tmp cannot be written; set TMPDIR to a folder of at most {LONGEST_PATH - BEHIND} characters"
    )
