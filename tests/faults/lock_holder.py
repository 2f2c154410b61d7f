"""Hold a key's lock, as a process of its own that a test can kill: FOLDER HOW.

HOW is `hold` (take it, say so, keep it), `fork` (the same, with forked children that outlive it), `try` (say whether it
is free) or `wait` (say that waiting begins, then when the lock was given, on the monotonic clock).
"""

import os
import sys
import time
from pathlib import Path

from filelock import Timeout

from tasks.store.locks import key_lock

KEY = "a" * 64


def say(*words: object) -> None:
    """A line to whoever started us, at once."""
    print(*words, flush=True)


def _child() -> int:
    """A forked process that does nothing for long."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


def main() -> int:
    folder, how = Path(sys.argv[1]), sys.argv[2]
    try:
        if how == "wait":
            say("waiting")
        with key_lock(folder, "tune", KEY, blocking=how == "wait"):
            # For a test that shifts the wall clock, which this clock does not follow.
            say("held", time.monotonic(), time.time())
            if how == "fork":
                say("children", *(_child() for _ in range(3)))
            if how in ("hold", "fork"):
                time.sleep(600)
    except Timeout:
        say("taken", time.monotonic(), time.time())
    return 0


if __name__ == "__main__":
    sys.exit(main())
