"""Capturing all states: against the published way, and against the time of its matrix products alone."""

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from tasks.core.capturing import capture_states
from tasks.core.costs import totals
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import shape_of
from tasks.core.costs.totals import Passes
from tasks.core.plan.layout import full_plan
from tasks.core.rates import measure_rates
from tasks.engine.resources import usable_cores
from tests.bench import baseline
from tests.bench.real_rows import CONTEXT, DATA, MISSING, network, training_rows
from tests.bench.timing import fastest

NUM_ROWS, MAX_TOKENS = 512, 4096
# Times as fast as the published way, and share of the rate of matrix products. The factor in bfloat16 is for a CPU with
# AMX, where that rate is four times the one of float32.
BOUNDS = {"float32": (14.0, 0.9), "bfloat16": (50.0, 0.65)}
Row = Callable[[str, str, str], None]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800), pytest.mark.skipif(not DATA.is_dir(), reason=MISSING)]


def test_capture_of_real_rows(row: Row) -> None:
    torch.set_num_threads(usable_cores())
    model, rows = network("OPT-125m"), training_rows("OPT-125m", "arc_easy", NUM_ROWS)
    began = time.perf_counter()
    theirs = baseline.capture(model, rows)
    published = time.perf_counter() - began
    ours = capture_states(model, rows, pooling="mean", with_final_norm=True, max_tokens=MAX_TOKENS)
    difference = float((ours.pooled - theirs).abs().max() / theirs.abs().max())
    row("capture, OPT-125m's shape, 512 rows: relative difference", f"{difference:.1e}", "<= 1e-5")
    lengths = [each.num_tokens for each in rows]
    needed = Passes(sum(lengths), sum(length**2 for length in lengths), 0, MAX_TOKENS, 0)
    shape = shape_of(model.config, CONTEXT)
    flops = totals.forward_flops(shape, Depth.of(full_plan(shape.num_blocks)), needed)
    failed = []
    for precision, (factor, share) in BOUNDS.items():
        cast = model.to(getattr(torch, precision))
        seconds = fastest(partial(capture_states, cast, rows, pooling="mean", max_tokens=MAX_TOKENS))
        reached = flops / seconds / measure_rates("cpu")[precision]
        row(
            f"  {precision}, published way in float32 / ours",
            f"{published:.1f} s / {seconds:.2f} s = {published / seconds:.1f}",
            f">= {factor:.0f}",
        )
        row(f"  {precision}, share of the rate of matrix products", f"{reached:.0%}", f">= {share:.0%}")
        failed += [precision] if published / seconds < factor or reached < share else []
    assert difference <= 1e-5
    assert not failed
