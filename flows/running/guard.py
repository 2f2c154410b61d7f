"""Keep a temporary Prefect server alive for exactly as long as this process, however the process ends.

The command starts one; for a flow that Python code calls, Prefect does. After `kill -9` of the run, Prefect's would
stay for ever, and Ctrl-C in a terminal or the end of a batch job, which signal every process of the run, would stop it
while the run still reports to it.
"""

import atexit
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.running.environment import TEMPORARY_SERVER
from tasks.core.errors import EnvironmentFault
from tasks.store.loopback import free_port, listens
from tasks.store.patience import watched
from tasks.store.signals import shielded
from tasks.tracking.servers import unreachable

_guards: list[subprocess.Popen] = []
SCRIPT = Path(__file__).with_name("temporary_server.py")
POLL_SECONDS = 0.1
END_SECONDS = 5.0


class _Server(subprocess.Popen):
    """A server process that ends when its standard input is closed, since signals do not reach it."""

    def terminate(self) -> None:
        """Ask the server to shut down in order."""
        assert self.stdin is not None
        self.stdin.close()


def start_temporary_server() -> None:
    """Start a server for this process, out of reach of signals; do nothing where one is configured.

    Prefect would start one itself, by a class in the module of the server, whose import takes seconds: to this
    process's Prefect, ours is a server like any other.

    Raises:
        EnvironmentFault: when the server ends or does not answer in time.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    if PREFECT_API_URL.value():
        return
    with watched("the temporary Prefect server to start"):
        server, url = _answering(time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    atexit.register(_end, server)
    # No page of it can be looked at: it ends with this process, and serves none.
    os.environ.update({PREFECT_API_URL.name: url, TEMPORARY_SERVER: url})
    refresh_global_settings_context()


def _answering(deadline: float) -> tuple["_Server", str]:
    """Start a server and wait until it answers; once more where another process took the port meanwhile."""
    for _ in range(2):
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        server = _serve(port)
        try:
            while server.poll() is None and time.monotonic() < deadline:
                # Asked over HTTP only once it listens: each such question costs as much as a hundred of these.
                if listens(port) and not unreachable(f"{url}/health"):
                    return server, url
                time.sleep(POLL_SECONDS)
        except BaseException:
            server.terminate()
            raise
        if server.poll() is None:
            server.terminate()
            raise EnvironmentFault("the temporary Prefect server did not answer in time; see what it printed above")
    raise EnvironmentFault(f"the temporary Prefect server ended with exit code {server.returncode}, see above")


def _end(server: "_Server") -> None:
    """Let the server shut down in order, before this process is gone."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(END_SECONDS)


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
    # Where its module is not imported, Prefect has started none; importing it takes seconds.
    module = sys.modules.get("prefect.server.api.server")
    for server in module.SubprocessASGIServer._instances.values() if module else ():
        process = server.server_process
        if process is not None and str(process.pid) not in watching:
            _guards.append(_guard(process.pid))


def _guard(pid: int) -> subprocess.Popen:
    """Start a shell that ends `pid` when our end of a pipe is closed, which the kernel does when we die."""
    command = ["/bin/sh", "-c", 'read -r _; kill "$0" 2>/dev/null', str(pid)]
    # In a separate session, and shielded: signals that end the run must not end its guard.
    with shielded():
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
