"""Estimated operations and memory of GradOT, against torch's own count and what is observed."""

import pytest

from tasks.core.batching import collate
from tasks.core.blocks.factored import linear_shapes
from tasks.core.blocks.feed_forward import feed_forward_channels
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.costs import totals
from tasks.core.costs.depths import Depth
from tasks.core.costs.gradient_compression import observed_bytes, observed_flops
from tasks.core.costs.totals import Passes
from tasks.core.gradot.choosing import Linear, channel_scores, rank_scores
from tasks.core.gradot.observing import NUM_TOKENS, Place, observe
from tasks.core.plan.layout import uniform_plan
from tests.core.costs.test_analyses import stand_in_rows
from tests.core.costs.test_totals import counted, network
from tests.core.tiny_models import NUM_BLOCKS

PLAN = uniform_plan(NUM_BLOCKS, 4, 2)
FROZEN = [position for position, (_, is_tuned) in enumerate(PLAN.layout) if not is_tuned]


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_operations(family: str) -> None:
    model, shape = network(family)
    examples, headless = stand_in_rows()
    emulator = with_layout(model.eval(), PLAN).requires_grad_(False)
    blocks, channels = get_blocks(emulator), feed_forward_channels(emulator, FROZEN)
    places: list[Place] = [(block, path) for block in FROZEN for path in linear_shapes(blocks[block])]

    def score() -> None:
        seen = observe(emulator, {place: [place] for place in places}, [collate(examples, 0)])
        modules = {
            place: Linear(blocks[place[0]].get_submodule(place[1]).weight, None, seen[place]) for place in places
        }
        for block in FROZEN:
            into, out = channels[block].into, channels[block].out
            channel_scores([modules[block, path] for path in into], modules[block, out], 1.0)
        for place in places:
            if place[1] not in channels[place[0]].paths:
                weight = modules[place].weight
                rank = min(weight.shape)
                left, right = weight[:, :rank], weight[:rank]
                rank_scores(left, left.new_ones(rank), right, seen[place], 1.0)

    answers = sum(len(each.answer_ids) for each in examples)
    passes = Passes(headless.tokens, headless.squares, answers, headless.tokens, answers)
    depth = Depth.of(PLAN)
    # Torch does not count what decompositions take.
    decompositions = observed_flops(shape, depth, Passes(0, 0, 0, 0, 0))
    assert decompositions > 0
    assert counted(score) == pytest.approx(observed_flops(shape, depth, passes) - decompositions, rel=0.05)
    assert NUM_TOKENS == totals.NUM_PROBED


def test_memory_grows_with_what_is_observed() -> None:
    shape, depth = network("llama")[1], Depth.of(PLAN)
    few, many = (observed_bytes(shape, depth, Passes(tokens, 0, 0, 64, 8), "float32") for tokens in (128, NUM_TOKENS))
    sides = sum(shape.blocks[source].sides for source in depth.frozen)
    assert many - few == 4 * sides * (NUM_TOKENS - 128)
    # Later tokens are not kept.
    assert observed_bytes(shape, depth, Passes(10 * NUM_TOKENS, 0, 0, 64, 8), "float32") == many
