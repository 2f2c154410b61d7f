"""A Prefect server for the runs of many tests: each run of the command would start its own, which takes seconds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.running.guard import SCRIPT
from tasks.tracking.servers import unreachable

# Address of the server that commands of tests use, unless a test names another one.
VARIABLE = "TESTS_PREFECT_URL"
# For a command that starts its own all the same.
TEMPORARY = {VARIABLE: ""}
START_SECONDS = 240


@contextmanager
def prefect_server(folder: Path, port: int) -> Iterator[str]:
    """Serve until the block ends, with the database under `folder`. Gives the address.

    Like a run's temporary server: a full one uses a tenth of a core for services that none of these tests needs.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    command = [sys.executable, "-P", str(SCRIPT), str(port)]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + START_SECONDS
        while unreachable(f"{address}/health"):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
