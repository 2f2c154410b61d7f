"""Estimated operations and memory of harmonizers, against torch's own count and real parameters."""

from dataclasses import replace

import pytest
import torch

from tasks.core.batching import Example, collate
from tasks.core.blocks.surgery import with_layout
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Depth
from tasks.core.costs.harmonizing import (
    NUM_CHOICES,
    comparing_flops,
    harmonizer_parameters,
    harmonizing_bytes,
    harmonizing_flops,
    replaced_depth,
)
from tasks.core.costs.totals import Passes
from tasks.core.harmonizers import training
from tasks.core.harmonizers.harmonizer import add_harmonizers, new_harmonizer
from tasks.core.harmonizers.settings import Harmonizing
from tasks.core.harmonizers.training import TrainedHarmonizers
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core.costs.test_totals import counted, network
from tests.core.tiny_models import NUM_BLOCKS, WIDTH

RANK, LENGTH, NUM_ROWS = 5, 24, 4
HOW = Harmonizing(num_steps=1, warmup_steps=0, batch_size=NUM_ROWS, rank=RANK, score_rows=NUM_ROWS, score_steps=1)
# Blocks of one family are alike, so that only the number of replaced ones counts, and which is the lowest.
PASSES = Passes(NUM_ROWS * LENGTH, NUM_ROWS * LENGTH**2, NUM_ROWS * (LENGTH - 1), NUM_ROWS * LENGTH, NUM_ROWS * LENGTH)


def windows() -> list[Example]:
    ids = torch.randint(3, 60, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    return [Example((row[0],), tuple(row[1:]), at) for at, row in enumerate(ids)]


@pytest.mark.parametrize("protected", [(), (0, 5)])
@pytest.mark.parametrize("family", ["opt", "llama", "gemma2"])
def test_operations_of_training_and_comparing(family: str, protected: tuple[int, ...]) -> None:
    model, shape = network(family)
    depth = replaced_depth(shape, RANK, HOW.group_size, protected)
    made = TrainedHarmonizers(model, HOW, protected, rows=windows())
    # The lowest block that may be replaced is replaced, as the estimate assumes.
    lowest = len(protected) // 2
    step = next(step for step in range(100) if made.choose(step) is None and not made.state()["kept"][lowest])
    made.choose(step)
    found = counted(lambda: train(made, windows(), [], HOW.training))
    assert found == pytest.approx(harmonizing_flops(shape, depth, PASSES), rel=0.03)
    assert counted(lambda: made.after_step(1)) == pytest.approx(comparing_flops(shape, depth, PASSES), rel=0.03)
    assert training.NUM_CHOICES == NUM_CHOICES


def test_the_lower_half_of_every_group_is_replaced() -> None:
    shape = network("llama")[1]
    depth = replaced_depth(replace(shape, blocks=shape.blocks * 2), RANK, 4, (0, 11))
    assert [block for block, _ in depth.layout] == [0, 3, 4, 5, 8, 9, 10, 11]
    assert (depth.harmonizers, depth.lowest_frozen) == (4, 1)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_parameters_and_operations_of_an_emulator(family: str) -> None:
    model, shape = network(family)
    plan = fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5), share="harmonizers")
    emulator, generator = with_layout(model, plan), torch.Generator().manual_seed(0)
    plain = Depth.of(plan)
    assert costs.emulator_parameters(shape, plain) == sum(each.numel() for each in emulator.parameters())
    add_harmonizers(emulator, plan, {block: new_harmonizer(WIDTH, RANK, generator) for block in (1, 4)})
    depth = replace(plain, harmonizers=2, harmonizer_rank=RANK)
    assert costs.emulator_parameters(shape, depth) == sum(each.numel() for each in emulator.parameters())
    settings = HOW.training
    tuning = costs.forward_flops(shape, depth, PASSES) + costs.backward_flops(shape, depth, PASSES)
    found = counted(lambda: train(TunedBlocks(emulator, plan), windows(), [], settings))
    assert found == pytest.approx(tuning, rel=0.03)
    batch = collate(windows(), 0)
    with torch.no_grad():
        forward = counted(lambda: emulator(batch.input_ids, use_cache=False))
    expected = costs.forward_flops(shape, depth, replace(PASSES, answers=PASSES.tokens))
    assert forward == pytest.approx(expected, rel=0.02)


def test_memory_grows_with_harmonizers_and_passes() -> None:
    shape = network("llama")[1]
    depth = replaced_depth(shape, RANK, 4)
    count = harmonizer_parameters(shape, RANK, NUM_BLOCKS)
    assert count == NUM_BLOCKS * 2 * RANK * WIDTH
    least = harmonizing_bytes(shape, depth, replace(PASSES, largest=0, largest_answers=0), "float32", count)
    assert least == 4 * shape.parameters + 16 * count
    narrow = harmonizing_bytes(shape, depth, replace(PASSES, largest=0, largest_answers=0), "bfloat16", count)
    assert narrow == 2 * shape.parameters + 18 * count
    more = harmonizing_bytes(shape, depth, replace(PASSES, largest_answers=0), "float32", count)
    kept = costs.gradient_bytes(shape, depth, PASSES.largest, 0, "float32")
    assert more - least == kept + 4 * depth.harmonizers * WIDTH * PASSES.largest
    assert kept > costs.gradient_bytes(shape, replace(depth, harmonizers=0), PASSES.largest, 0, "float32")
