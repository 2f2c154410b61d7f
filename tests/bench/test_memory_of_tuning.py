"""Memory of a tuning whose passes vary in shape: it stays flat over fifty steps, and is what the estimate says."""

from collections.abc import Callable

import pytest

from tasks.engine.child_process import KERNELS
from tests.bench.apart import measured
from tests.bench.real_rows import DATA, MISSING

STEPS, EARLY = 50, 10
MOST_GROWTH, TOLERANCE = 1.10, 0.15
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600), pytest.mark.skipif(not DATA.is_dir(), reason=MISSING)]


@pytest.mark.parametrize("what", ["tuned", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["OPT-125m", "SmolLM2"])
def test_memory_stays_flat(name: str, precision: str, what: str, row: Row) -> None:
    found = measured("memory_of_tuning", name, precision, what, STEPS, **KERNELS)
    early, last = found["peaks"][EARLY - 1], found["peaks"][-1]
    row(
        f"memory of tuning, {name}'s shape, {precision}, {what} blocks: after {STEPS} steps / {EARLY} steps",
        f"{last / 1e9:.2f} GB / {early / 1e9:.2f} GB = {last / early:.2f}",
        f"<= {MOST_GROWTH:.2f}",
    )
    share = last / found["expected"]
    bounds = f"{1 - TOLERANCE} to {1 + TOLERANCE}"
    row("  measured / estimated", f"{share:.2f} of {found['expected'] / 1e9:.2f} GB", bounds)
    assert last <= MOST_GROWTH * early
    assert abs(share - 1) <= TOLERANCE
