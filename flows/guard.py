"""End the temporary Prefect server when this process is gone, however it went.

Prefect stops the server that it starts for a run at a normal end; after `kill -9` of the run it would live on for ever.
"""

import subprocess

_guards: list[subprocess.Popen] = []


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
