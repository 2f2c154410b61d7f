"""Estimated operations of the analyses of studies and searches, against torch's own counts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from tasks.core.batching import Example, collate
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.cka import ESTIMATORS
from tasks.core.costs import analyses, totals
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import Passes
from tasks.core.costs.workloads import Lengths, sorted_passes
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.evaluation.proxies import measure_proxies
from tasks.core.plan.layout import uniform_plan
from tasks.core.plan.spans import runs_up_to
from tasks.core.stand_ins.effects import NUM_TOKENS, make_probe
from tasks.core.stand_ins.least_squares import ALPHAS, measure
from tasks.core.stand_ins.residual_outputs import residual_outputs
from tasks.core.study.importance import deletions, replacements, rewindings, row_losses
from tasks.core.study.interpolation import Mixture, parameters_of
from tasks.core.study.landscape import Measured, grid, plane_order, survey
from tasks.core.study.lens import every_token, make_lens
from tasks.core.study.lens_training import TrainedLens
from tasks.core.study.predictions import functional_distances
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.study.cross_similarity import COMPARED
from tests.core.costs.test_totals import CONTEXT, counted, lengths_of, network, rows
from tests.core.tiny_models import NUM_BLOCKS

FAMILIES = ("opt", "llama")
LIMITS: Any = {"max_length": CONTEXT, "max_tokens": 96}


def scoring_passes() -> Passes:
    """Passes of scoring the rows: the last token is not an input."""
    found = [(row.num_tokens - 1, len(row.answer_ids)) for row in rows()]
    return sorted_passes(Lengths.of(found), CONTEXT, 96)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_importance(family: str) -> None:
    model, shape = network(family)
    passes, whole = scoring_passes(), analyses.from_block_flops(shape, 0, scoring_passes())
    for make, expected in (
        (deletions(model), whole + analyses.deletion_flops(shape, passes)),
        (replacements(model), whole + analyses.replacement_flops(shape, passes)),
        (rewindings(model, network(family)[0], [1, 4]), analyses.rewinding_flops(shape, [1, 4], passes)),
    ):
        assert counted(lambda make=make: row_losses(model.eval(), make, rows(), **LIMITS)) == pytest.approx(
            expected, rel=0.03
        )


def stand_in_rows() -> tuple[list[Example], Passes]:
    """Rows for linear stand-ins, and a pass of all of them without the head."""
    examples = [Example(tuple(range(3, 34)), (5,), number) for number in range(4)]
    tokens = sum(each.num_tokens for each in examples)
    return examples, Passes(tokens, sum(each.num_tokens**2 for each in examples), 0, tokens, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_stand_ins(family: str) -> None:
    model, shape = network(family)
    examples, passes = stand_in_rows()
    paths, runs, tokens = residual_outputs(model.eval()), runs_up_to(NUM_BLOCKS, 2), passes.tokens
    counts = len({first for first, _ in runs}), len(runs)
    # Torch does not count what systems of equations take.
    sums = totals.stand_in_flops(shape, tokens, *counts) - totals.stand_in_flops(shape, 0, *counts)
    expected = totals.forward_flops(shape, Depth.whole(NUM_BLOCKS), passes) + sums
    assert counted(lambda: measure(model, paths, [collate(examples, 0)], runs)) == pytest.approx(expected, rel=0.03)
    assert (len(ALPHAS), NUM_TOKENS) == (totals.NUM_PENALTIES, totals.NUM_PROBED)
    assert (len(ESTIMATORS), len(COMPARED)) == (totals.NUM_CKA, totals.NUM_CROSS_CKA)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_effects(family: str) -> None:
    model, shape = network(family)
    examples, headless = stand_in_rows()
    paths, runs = residual_outputs(model.eval()), runs_up_to(NUM_BLOCKS, 2)
    passes = replace(headless, answers=headless.tokens - len(examples))

    def probe() -> None:
        found = make_probe(model, paths, [collate(examples, 0)], runs)
        for run in runs:
            found.effect(run, torch.eye(shape.width))

    assert counted(probe) == pytest.approx(totals.effect_flops(shape, passes, len(runs)), rel=0.05)


def test_memory_of_stand_ins_is_that_of_their_sums() -> None:
    shape, runs = network("llama")[1], runs_up_to(NUM_BLOCKS, 2)
    count = len({first for first, _ in runs}) + len(runs)
    sums = totals.stand_in_bytes(shape, 0, count - len(runs), len(runs))
    assert sums == 2 * 4 * count * shape.width**2
    assert totals.stand_in_bytes(shape, 96, count - len(runs), len(runs)) > sums


def moved(model: PreTrainedModel, blocks: range) -> dict[str, torch.Tensor]:
    """Other values of the parameters of these blocks."""
    inside = {id(parameter) for block in blocks for parameter in get_blocks(model)[block].parameters()}
    return {
        name: parameter.detach() + 0.1
        for name, parameter in model.named_parameters()
        if id(parameter) in inside and name in parameters_of(model)
    }


def surveyed(mixture: Mixture, coordinates: list[tuple[float, ...]]) -> float:
    requests = [(row.prompt_ids, row.answer_ids) for row in rows()]

    def measure(model: nn.Module) -> Measured:
        score_tokens(model, requests, CONTEXT, 96, share_prompts=False)
        return Measured(0.0, 0.0)

    return counted(lambda: survey(mixture, coordinates, measure))


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_lines_and_planes(family: str) -> None:
    model, shape = network(family)
    model.eval()
    passes, high, low = scoring_passes(), moved(model, range(4, 6)), moved(model, range(1, 3))
    line = surveyed(Mixture(model, {}, [high]), [(place,) for place in grid(0.0, 1.0, 5)])
    assert line == pytest.approx(analyses.lines_flops(shape, [NUM_BLOCKS, 4], 5, passes), rel=0.03)
    mixture, places = Mixture(model, {}, [high, low]), grid(0.0, 1.0, 4)
    order = [(places[i], places[j]) for i, j in plane_order(mixture, places, places)]
    expected = analyses.plane_flops(shape, [NUM_BLOCKS, 4, 1], 4, passes)
    assert surveyed(mixture, order) == pytest.approx(expected, rel=0.03)


class Products(TorchDispatchMode):
    """Counts operations as torch's own counter, whose hooks on modules do not allow gradients in a forward pass."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=found)
        return found


def every_position(shape: Shape) -> Passes:
    """All rows in one pass, with predictions at every token but the first of each row, without padding."""
    passes = sorted_passes(lengths_of(rows()), CONTEXT, 10_000, shape.limits)
    return replace(passes, answers=float(sum(row.num_tokens - 1 for row in rows())))


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_a_lens(family: str) -> None:
    model, shape = network(family)
    examples, passes = every_token(rows()), every_position(shape)
    how = TrainSettings(learning_rate=1e-3, num_steps=1, batch_size=len(examples), max_tokens=10_000)
    with Products() as products:
        train(TrainedLens(model), examples, [], how)
    assert products.flops == pytest.approx(analyses.lens_training_flops(shape, passes), rel=0.03)
    states = analyses.from_block_flops(shape, 0, replace(passes, answers=0.0))
    model = network(family)[0]
    read = counted(lambda: functional_distances(model, make_lens(model), examples, 10_000, max_tokens=10_000))
    reading = states + analyses.lens_reading_flops(shape, passes.answers)
    # The distances themselves are left out: they are products over the vocabulary, which is small here.
    assert reading <= read < 1.5 * reading


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_proxies(family: str) -> None:
    model, shape = network(family)
    model.eval()
    plan, passes = uniform_plan(NUM_BLOCKS, 4, 2), sorted_passes(lengths_of(rows()), CONTEXT, 96)
    emulator = with_layout(model, plan)
    found = counted(lambda: measure_proxies(model, emulator, plan, rows(), max_tokens=96))
    assert found == pytest.approx(analyses.proxy_flops(shape, Depth.of(plan), passes), rel=0.03)
