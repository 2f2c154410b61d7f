"""Starting and finding: the command's help, and a run of which everything is found, with and without a server."""

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tasks.store.loopback import free_port
from tests.bench.timing import fastest
from tests.flows.commands import CRASH, TRACKED, clean_environment, crash, small_settings
from tests.prefect_server import TEMPORARY, prefect_server

MOST_HELP, MOST_FOUND, MOST_ABOVE_SERVER = 0.5, 3.0, 8.0
Row = Callable[[str, str, str], None]

pytestmark = pytest.mark.bench


def seconds(*arguments: str, **environment: str) -> float:
    """Seconds of the command."""
    command = [str(CRASH), *arguments]
    return fastest(
        partial(subprocess.run, command, env=clean_environment(**environment), check=True, capture_output=True)
    )


def test_the_warm_path(tmp_path: Path, row: Row) -> None:
    settings = str(small_settings(tmp_path))
    assert crash("run", settings).returncode == 0
    shown = seconds("--help")
    (tmp_path / "server").mkdir()
    began = time.perf_counter()
    with prefect_server(tmp_path / "server", free_port()) as address:
        started = time.perf_counter() - began
        found = seconds("run", settings, PREFECT_API_URL=address)
        tracked = seconds("run", settings, *TRACKED, PREFECT_API_URL=address)
    alone = seconds("run", settings, **TEMPORARY)
    row("crash --help", f"{shown:.2f} s", f"<= {MOST_HELP} s")
    row("a run of 22 found stages, Prefect server there", f"{found:.1f} s", f"<= {MOST_FOUND:.0f} s")
    row("  with MLflow's tracking in a local file", f"{tracked:.1f} s", "beside it")
    row("  with a temporary server", f"{alone:.1f} s", f"<= {MOST_ABOVE_SERVER:.0f} s above its start, {started:.1f} s")
    assert shown <= MOST_HELP
    assert found <= MOST_FOUND
    assert alone <= started + MOST_ABOVE_SERVER
