"""The process of the temporary Prefect server: it serves until the process that started it closes a pipe, or is gone.

Run as a file, with a port. Its starter shields it from requests to stop (`tasks.store.signals`), so that it outlives a
signal to every process of a job: the run still reports to it how it ended.
"""

import os
import signal
import sys
import threading
import time

# An orderly end takes less than a second.
LONGEST_END_SECONDS = 10.0


def main() -> None:
    """Serve, as Prefect's own command for its temporary server does."""
    import uvicorn

    threading.Thread(target=_end_with_starter, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )
    # As uvicorn ends by its signal: its threads are not waited for, which takes seconds.
    os._exit(0)


def _end_with_starter() -> None:
    """Wait for the end of standard input, then have uvicorn end in order: the signal is unblocked in this thread."""
    sys.stdin.buffer.read()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
    time.sleep(LONGEST_END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
