"""First thing that Python runs under a false clock: sleep in a way that libfaketime 0.9.10 does not break.

Python 3.11 sleeps until a moment of the monotonic clock. libfaketime takes its own offset from that moment even where
it is told to leave the monotonic clock alone, and the kernel refuses what comes out (wolfcw/libfaketime issue 426).
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), seconds)


time.sleep = _sleep
