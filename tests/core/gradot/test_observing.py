"""Observed inputs of linear modules, and derivatives of the loss by their outputs."""

import pytest
import torch

from tasks.core.batching import Example, collate
from tasks.core.blocks.factored import linear_shapes
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.gradot.observing import NUM_TOKENS, TOKENS_OF_A_ROW, observe, observed_rows
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.losses import AnswerLoss
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model

ROWS = [Example((3, 4, 5, 6, 7), (8, 9), 0), Example((10, 11), (12, 13, 14), 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_weights_follow_from_what_is_observed(family: str) -> None:
    model, batch = tiny_model(family), collate(ROWS, 0)
    places = [(block, path) for block in (1, 4) for path in linear_shapes(get_blocks(model)[block])]
    found = observe(model, {place: [place] for place in places}, [batch])
    assert found.keys() == set(places)
    summed, _ = AnswerLoss(model)(batch)
    summed.backward()
    for (block, path), seen in found.items():
        weight = get_blocks(model)[block].get_submodule(path).weight
        assert len(seen.inputs) == len(seen.gradients) == sum(row.num_tokens for row in ROWS)
        gradient = seen.gradients.T @ seen.inputs
        is_transposed = linear_shapes(get_blocks(model)[block])[path].is_transposed
        expected = weight.grad.T if is_transposed else weight.grad
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())), path


def test_a_weight_that_runs_twice_is_observed_at_both_positions() -> None:
    model = tiny_model("llama")
    plan = fixed_plan(NUM_BLOCKS, (0, 1, 5), (0, 5), share="all")
    emulator = with_layout(model, plan)
    positions = [position for position, (source, _) in enumerate(plan.layout) if source == 1]
    assert len(positions) > 1
    path = next(iter(linear_shapes(get_blocks(emulator)[1])))
    group = [(position, path) for position in positions]
    whole = observe(emulator, {(1, path): group}, [collate(ROWS, 0)])[1, path]
    parts = [observe(emulator, {place: [place]}, [collate(ROWS, 0)])[place] for place in group]
    assert torch.equal(whole.inputs, torch.cat([part.inputs for part in parts]))
    assert torch.equal(whole.gradients, torch.cat([part.gradients for part in parts]))


def test_the_first_rows_are_taken_with_their_answers() -> None:
    rows = [Example(tuple(range(length)), (7, 8), number) for number, length in enumerate((10, 1000, 400, 300, 300, 5))]
    found = observed_rows(rows)
    assert [row.row for row in found] == [0, 1, 2, 3, 4]
    assert [row.num_tokens for row in found] == [12, TOKENS_OF_A_ROW, TOKENS_OF_A_ROW, TOKENS_OF_A_ROW, 244]
    assert sum(row.num_tokens for row in found) == NUM_TOKENS
    assert all(row.answer_ids == (7, 8) for row in found)
    # The beginning of a long prompt is left out, as in scoring.
    assert found[1].prompt_ids[-1] == 999
    (long,) = observed_rows([Example((1, 2), tuple(range(300)))])
    assert (long.prompt_ids, long.num_tokens) == ((2,), TOKENS_OF_A_ROW)


def test_gradients_that_are_not_finite_are_refused_by_name() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        get_blocks(model)[3].mlp.up_proj.weight.fill_(float("nan"))
    place = (2, "mlp.down_proj")
    with pytest.raises(InputError, match=r"block 2, mlp.down_proj: gradients of the loss are not finite"):
        observe(model, {place: [place]}, [collate(ROWS, 0)])
