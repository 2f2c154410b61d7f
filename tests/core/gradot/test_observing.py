"""What is observed of linear modules: their inputs, and the derivative of the loss by their outputs."""

import pytest
import torch

from tasks.core.batching import Example, collate
from tasks.core.blocks.factored import linear_shapes
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.gradot import observing
from tasks.core.gradot.observing import observe
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


def test_no_more_tokens_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "NUM_TOKENS", 9)
    model = tiny_model("llama")
    batches = iter([collate([row], 0) for row in (*ROWS, *ROWS)])
    place = (0, "mlp.down_proj")
    assert len(observe(model, {place: [place]}, batches)[place].inputs) == 9
    # The pass that reached the number was the last one.
    assert len(list(batches)) == 2


def test_gradients_that_are_not_finite_are_refused_by_name() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        get_blocks(model)[3].mlp.up_proj.weight.fill_(float("nan"))
    place = (2, "mlp.down_proj")
    with pytest.raises(InputError, match=r"block 2, mlp.down_proj: gradients of the loss are not finite"):
        observe(model, {place: [place]}, [collate(ROWS, 0)])
