"""Free memory between tensors goes back to the system when a process has grown, and only then."""

import pytest
import torch

from tasks.core.blocks.memory import TRIM, FlatMemory, give_back, resident_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("resident", "given"),
    [
        ([100, 109, 105, 109], []),
        # What is needed from the second step on, is needed: it is measured once, after nothing was held back.
        ([100, 150, 150, 150, 160], [1]),
        # Each time that it has grown beyond that.
        ([100, 150, 100, 115, 100, 115], [1, 3, 5]),
        ([100, 120, 90, 105, 111, 90], [1, 4]),
    ],
)
def test_it_gives_back_when_the_process_has_grown(resident: list[int], given: list[int]) -> None:
    noted, step = list[int](), 0
    memory = FlatMemory(lambda: resident[step], lambda: noted.append(step))
    for step in range(len(resident)):  # noqa: B007
        memory.after_step()
    assert noted == given


@pytest.mark.skipif(TRIM is None, reason="the C library is not glibc")
def test_memory_between_tensors_goes_back_to_the_system() -> None:
    # From a first large one on, glibc keeps tensors of this size in its heap.
    large = torch.ones(4 * MIB)
    del large
    # What earlier tests left behind.
    give_back()
    memory = FlatMemory()
    memory.after_step()
    before = resident_bytes()
    tensors = [torch.ones(MIB // 8) for _ in range(2000)]
    # Every tenth stays, so that the heap cannot shrink from its end.
    kept = tensors[::10]
    del tensors
    assert resident_bytes() - before > 900 * MIB
    memory.after_step()
    assert resident_bytes() - before < 250 * MIB
    assert all(tensor.sum() == MIB // 8 for tensor in kept)
