"""Keep the temporary Prefect server for exactly as long as this process needs it, however it ends.

Prefect stops the server that it starts for a run at a normal end. After `kill -9` of the run it would live on for ever,
and Ctrl-C in a terminal or the end of a batch job, of which every process of the run is told, would end it while the
run still reports to it.
"""

import os
import subprocess
import sys
from pathlib import Path

from tasks.store.patience import watched
from tasks.store.signals import shielded

_guards: list[subprocess.Popen] = []
SCRIPT = Path(__file__).with_name("temporary_server.py")


class _Server(subprocess.Popen):
    """A server that ends when its standard input does: signals do not reach it."""

    def terminate(self) -> None:
        """Ask it to end in order."""
        assert self.stdin is not None
        self.stdin.close()


def start_temporary_server() -> None:
    """Start the server that Prefect would start by itself, out of reach of signals; nothing where one is configured."""
    if os.environ.get("PREFECT_API_URL"):
        return
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, get_current_settings

    if PREFECT_API_URL.value():
        return

    class Shielded(SubprocessASGIServer):
        """The one that Prefect finds when it looks for the temporary server of this process."""

        def _run_uvicorn_command(self) -> subprocess.Popen:
            own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
            environment = {**os.environ, **own, **get_current_settings().to_environment_variables(exclude_unset=True)}
            # -P: modules beside the script have names that other packages use too.
            command = [sys.executable, "-P", str(SCRIPT), str(self.port)]
            with shielded():
                return _Server(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)

    with watched("the temporary Prefect server to start"):
        Shielded().start()


def guard_temporary_servers() -> None:
    """Watch over every server that Prefect has started for this process and that is not watched yet."""
    from prefect.server.api.server import SubprocessASGIServer

    watching = {guard.args[-1] for guard in _guards}  # type: ignore[index]
    for server in SubprocessASGIServer._instances.values():
        process = server.server_process
        if process is None or isinstance(process, _Server) or str(process.pid) in watching:
            continue
        _guards.append(_guard(process.pid))


def _guard(pid: int) -> subprocess.Popen:
    """A shell that waits for the end of our side of a pipe, which the kernel closes when we die."""
    command = ["/bin/sh", "-c", 'read -r _; kill "$0" 2>/dev/null', str(pid)]
    # A session of its own, and shielded: what ends the run is not for its guard.
    with shielded():
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
