"""The process of the temporary Prefect server, which serves until its parent closes a pipe or is gone.

Run this file with a port. The parent shields the server from requests to stop (`tasks.store.signals`), so that it
outlives a signal to every process of a job, and the run can still report to it how it ended.
"""

import os
import signal
import sys
import threading
import time

# An orderly shutdown takes less than a second.
LONGEST_END_SECONDS = 10.0


def main() -> None:
    """Serve, as Prefect's command for its temporary server does."""
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
    # As when a signal ends uvicorn: do not wait for its threads, which takes seconds.
    os._exit(0)


def _end_with_starter() -> None:
    """Wait for the end of standard input, then let uvicorn shut down in order: this thread unblocks the signal."""
    sys.stdin.buffer.read()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
    time.sleep(LONGEST_END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
