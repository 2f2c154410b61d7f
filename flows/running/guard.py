"""Keep the temporary Prefect server alive for exactly as long as this process, however the process ends.

At a normal end, Prefect stops the server that it started for the run. After `kill -9` of the run the server would stay
for ever, and Ctrl-C in a terminal or the end of a batch job, which signal every process of the run, would stop it while
the run still reports to it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.store.loopback import free_port
from tasks.store.patience import watched
from tasks.store.signals import shielded

_guards: list[subprocess.Popen] = []
SCRIPT = Path(__file__).with_name("temporary_server.py")


class _Server(subprocess.Popen):
    """A server process that ends when its standard input is closed, since signals do not reach it."""

    def terminate(self) -> None:
        """Ask the server to shut down in order."""
        assert self.stdin is not None
        self.stdin.close()


def start_temporary_server() -> None:
    """Start the server that Prefect would start, out of reach of signals; do nothing where one is configured."""
    if os.environ.get("PREFECT_API_URL"):
        return
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() or any(server.running for server in _servers()):
        return
    port = free_port()
    process = _serve(port)
    try:
        # The class is in the module of the server itself, whose import takes seconds: the process needs them as well.
        from prefect.server.api.server import SubprocessASGIServer
    except BaseException:
        process.terminate()
        raise

    class Shielded(SubprocessASGIServer):
        """The server that Prefect finds when it looks for this process's temporary server."""

        def _run_uvicorn_command(self) -> subprocess.Popen:
            assert self.port is not None
            # Prefect asks again with another port where another process has taken the first one meanwhile.
            return process if self.port == port else _serve(self.port)

    server = Shielded()
    server.port = port
    with watched("the temporary Prefect server to start"):
        server.start()


def _servers() -> list[Any]:
    """Return the temporary servers of this process, as Prefect keeps them.

    Where its module is not imported, it has started none; importing it takes seconds.
    """
    module = sys.modules.get("prefect.server.api.server")
    return list(module.SubprocessASGIServer._instances.values()) if module else []


def _serve(port: int) -> _Server:
    """Start the process of a temporary server, with the variables that Prefect would give it."""
    from prefect.settings import get_current_settings

    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    environment = {**os.environ, **own, **get_current_settings().to_environment_variables(exclude_unset=True)}
    # -P: modules beside the script have names that other packages use as well.
    command = [sys.executable, "-P", str(SCRIPT), str(port)]
    with shielded():
        return _Server(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def guard_temporary_servers() -> None:
    """Start a guard for every server that Prefect has started for this process and that has none yet."""
    watching = {guard.args[-1] for guard in _guards}  # type: ignore[index]
    for server in _servers():
        process = server.server_process
        if process is None or isinstance(process, _Server) or str(process.pid) in watching:
            continue
        _guards.append(_guard(process.pid))


def _guard(pid: int) -> subprocess.Popen:
    """Start a shell that ends `pid` when our end of a pipe is closed, which the kernel does when we die."""
    command = ["/bin/sh", "-c", 'read -r _; kill "$0" 2>/dev/null', str(pid)]
    # In a separate session, and shielded: signals that end the run must not end its guard.
    with shielded():
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
