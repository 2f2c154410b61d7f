"""Processes whose wall clock a test shifts, with libfaketime."""

import calendar
import os
import time
from pathlib import Path

import pytest

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (apt-get install faketime)")
DAY = 86_400


def shifted(offset: str | Path) -> dict[str, str]:
    """Environment of a process whose clock is off: by `+1d`, `-1d`, `@2039-06-01 00:00:00`; or as a file says, always.

    The monotonic clock stays as it is, as it does on a machine whose clock is set. For what libfaketime breaks then
    see `clock/sitecustomize.py`, which every Python process with this environment runs first. OpenMP and
    MLflow take no harm; Prefect's temporary server works but burns a core, so long tests give their runs another one.
    """
    repairs = Path(__file__).parent / "clock"
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Times of files are what the file system's own clock said.
        "NO_FAKE_STAT": "1",
        # A crash inside libfaketime says in which thread and where.
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join([str(repairs), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    if isinstance(offset, Path):
        # Read again every second: the test changes it while the process runs.
        return {**environment, "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_CACHE_DURATION": "1"}
    return {**environment, "FAKETIME": offset}


def at(moment: str, zone: str = "UTC0") -> dict[str, str]:
    """Environment of a process whose clock shows this moment of UTC when it starts, in a time zone as TZ names it.

    Given to libfaketime as an offset: a date it would parse anew every ten seconds, in whichever thread asks.
    """
    offset = calendar.timegm(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) - round(time.time())
    return {**shifted(f"{offset:+d}"), "TZ": zone}


def days_off(seconds: float) -> int:
    """How many whole days a wall clock is ahead of ours."""
    return round((seconds - time.time()) / DAY)
