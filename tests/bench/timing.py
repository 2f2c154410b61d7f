"""Seconds of calls that are repeated."""

import time
from collections.abc import Callable

REPEATS = 3


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls, the first of which chooses kernels and is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
