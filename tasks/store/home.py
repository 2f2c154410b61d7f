"""The home: the folder of everything that this project writes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.store.artifacts import Store


def default_home() -> Path:
    """Return the home, unless settings or an option name another one."""
    return Path(os.environ.get("CRASH_HOME") or ".crash")


def copies_folder(store: "Store | None") -> Path:
    """Return the folder for copies of inputs: in the store, or in the default home."""
    return store.root if store else default_home().absolute()
