"""Capture of a checkpoint that is larger than the memory that it takes, against capture in memory."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.bench.apart import measured
from tests.bench.checkpoints import write_checkpoint
from tests.bench.larger_than_memory import config_of

SIZE = 6e9
NUM_ROWS = 64
ALONE_ROWS = 4
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


capture = partial(measured, "larger_than_memory")


def test_capture_block_by_block(tmp_path: Path, row: Row) -> None:
    if shutil.disk_usage(tmp_path).free < 1.2 * SIZE:
        pytest.skip(f"needs {1.2 * SIZE / 1e9:.0f} GB of disk space for a checkpoint")
    folder = tmp_path / "model"
    folder.mkdir()
    size = write_checkpoint(folder, config_of(SIZE))
    whole, streamed = (capture(folder, way, NUM_ROWS) for way in ("whole", "streamed"))
    pairs = enumerate(zip(streamed["digests"], whole["digests"], strict=True))
    assert [number for number, (one, other) in pairs if one != other] == [], "states that differ"
    name = f"capture of {NUM_ROWS} rows, {size / 1e9:.1f} GB on disk, bfloat16"
    row(
        f"{name}: blocks loaded one at a time / whole model in memory",
        f"{streamed['seconds']:.0f} s / {whole['seconds']:.0f} s = {streamed['seconds'] / whole['seconds']:.2f}",
        "<= 1.40",
    )
    row("  peak memory", f"{streamed['peak'] / 1e9:.2f} GB / {whole['peak'] / 1e9:.2f} GB", "<= 1.50 GB")
    # One prompt at a time through all blocks, as AirLLM does: every row reads the whole checkpoint.
    alone = [capture(folder, "streamed", 1)["seconds"] for _ in range(ALONE_ROWS)]
    rows = NUM_ROWS / streamed["seconds"] * 3600, ALONE_ROWS / sum(alone) * 3600
    row("  rows an hour, all together / one at a time", f"{rows[0]:.0f} / {rows[1]:.0f} = {rows[0] / rows[1]:.0f}", "")
    assert streamed["peak"] <= 1.5e9
    assert streamed["seconds"] <= 1.4 * whole["seconds"]
