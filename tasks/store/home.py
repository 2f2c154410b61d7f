"""The folder of everything this project writes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.store.artifacts import Store


def default_home() -> Path:
    """The folder, unless settings or an option say otherwise."""
    return Path(os.environ.get("CRASH_HOME") or ".crash")


def copies_folder(store: "Store | None") -> Path:
    """The folder of copies of inputs: in the store, or where this project writes by default."""
    return store.root if store else default_home().absolute()
