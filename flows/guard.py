"""Keep the temporary Prefect server for exactly as long as this process needs it, however it ends.

Prefect stops the server that it starts for a run at a normal end. After `kill -9` of the run it would live on for ever,
and Ctrl-C in a terminal, which every process of the run receives, would end it while the run still reports to it.
"""

import os
import signal
import subprocess

_guards: list[subprocess.Popen] = []


def start_temporary_server() -> None:
    """Start the server that Prefect would start by itself, deaf to Ctrl-C; nothing where a server is configured."""
    if os.environ.get("PREFECT_API_URL"):
        return
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    # A child inherits which signals are blocked, and no handler that it installs sees those.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def guard_temporary_servers() -> None:
    """Watch over every server that Prefect has started for this process and that is not watched yet."""
    from prefect.server.api.server import SubprocessASGIServer

    watched = {guard.args[-1] for guard in _guards}  # type: ignore[index]
    for server in SubprocessASGIServer._instances.values():
        process = server.server_process
        if process is not None and str(process.pid) not in watched:
            _guards.append(_guard(process.pid))


def _guard(pid: int) -> subprocess.Popen:
    """A shell that waits for the end of our side of a pipe, which the kernel closes when we die."""
    command = ["/bin/sh", "-c", 'read -r _; kill "$0" 2>/dev/null', str(pid)]
    # A session of its own: Ctrl-C in the terminal is for the run, not for its guard.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
