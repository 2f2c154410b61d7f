"""The k-th largest magnitude of many numbers that are never all in memory, exactly.

The bits of a float32's magnitude, read as a whole number, grow with the magnitude. A first pass counts their upper
half, a second one the lower half of those in the group of the k-th largest.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LOW_BITS = 16
NUM_LOW, NUM_HIGH = 1 << LOW_BITS, 1 << (31 - LOW_BITS)


def kth_largest_magnitude(parts: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Return the k-th largest magnitude, 1 <= k <= the count of the numbers, rounded to float32.

    parts: yields all numbers in vectors, the same each time it is called.
    """
    counts = torch.zeros(NUM_HIGH, dtype=torch.int64)
    for part in parts():
        counts += torch.bincount(_bits(part) >> LOW_BITS, minlength=NUM_HIGH)
    high, k = _find(counts, k)
    counts = torch.zeros(NUM_LOW, dtype=torch.int64)
    for part in parts():
        bits = _bits(part)
        counts += torch.bincount(bits[bits >> LOW_BITS == high] & (NUM_LOW - 1), minlength=NUM_LOW)
    low, _ = _find(counts, k)
    return float(torch.tensor(high << LOW_BITS | low, dtype=torch.int32).view(torch.float32))


def _bits(part: Tensor) -> Tensor:
    return part.float().abs().view(torch.int32)


def _find(counts: Tensor, k: int) -> tuple[int, int]:
    """Return the group of the k-th largest, and its rank from the top within the group."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top < k).sum())
    assert place < len(counts), "there are at least k numbers"
    return len(counts) - 1 - place, k - int(from_top[place] - counts.flip(0)[place])
