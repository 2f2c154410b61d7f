"""Requests to stop: the signals by which a user, a batch system or a closed terminal asks a run to end.

A batch system sends them to every process of a job at once. The processes that a run starts (the server that stages are
forked from, the temporary Prefect server) must outlive them: the run needs them to end in order, and ends them.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A signal within this many seconds after the first one is the same request: `timeout` sends its signal to the command
# and to the command's process group, and a worker passes on what a batch system has sent to every process. Nobody
# presses Ctrl-C twice within a tenth of a second.
SAME_REQUEST_SECONDS = {signal.SIGTERM: 2.0, signal.SIGHUP: 2.0, signal.SIGINT: 0.1}


@contextmanager
def shielded() -> Iterator[None]:
    """Block requests to stop in processes that are started inside the block, whatever handlers they install.

    A process inherits the blocked signals of its parent. Such a process ends when its parent closes a pipe or kills it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unshield() -> None:
    """Let a process forked from a shielded one receive requests to stop again; pending ones arrive now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
