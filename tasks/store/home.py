"""The folder of everything this project writes."""

import os
from pathlib import Path


def default_home() -> Path:
    """The folder, unless settings or an option say otherwise."""
    return Path(os.environ.get("CRASH_HOME") or ".crash")
