"""Owner-side proxies against a plain computation with whole logits, and their laws."""

import math

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tasks.core.batching import Example, collate
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.evaluation import proxy_passes
from tasks.core.evaluation.proxies import Proxies, measure_proxies
from tasks.core.plan.layout import Plan, fixed_plan
from tests.core.rows import rows
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model

PLANS = {
    "removed": fixed_plan(NUM_BLOCKS, [0, 2, 5], [0, 5]),
    "shared": fixed_plan(NUM_BLOCKS, [0, 2, 4], [0, 4], share="all"),
}
EVERY = fixed_plan(NUM_BLOCKS, range(NUM_BLOCKS), [1, 3, 5])


def measured(model: PreTrainedModel, plan: Plan, max_tokens: int = 18) -> Proxies:
    return measure_proxies(model, with_layout(model, plan), plan, rows(), max_tokens=max_tokens)


def naive_gradients(model: nn.Module, blocks: list[nn.Module]) -> list[torch.Tensor]:
    """Of the summed loss as transformers computes it, one vector a block."""
    model.zero_grad()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    batch = collate(rows(), 0)
    loss = model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    loss.backward()
    return [torch.cat([parameter.grad.flatten().double() for parameter in block.parameters()]) for block in blocks]


@torch.no_grad()
def naive_outputs(model: nn.Module, positions: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(probabilities before answer tokens, inputs of the blocks at these positions over real tokens)."""
    batch = collate(rows(), 0)
    found = model(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    answered = batch.labels[:, 1:] != -100
    probabilities = found.logits[:, :-1][answered].double().softmax(-1)
    real = batch.attention_mask.bool()
    return probabilities, [found.hidden_states[position][real].double() for position in positions]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PLANS)
def test_equal_to_a_plain_computation(family: str, kind: str) -> None:
    plan, model = PLANS[kind], tiny_model(family)
    found = measured(model, plan)

    emulator = with_layout(tiny_model(family), plan)
    places = [plan.layout.index((index, True)) for index in plan.tuned]
    left = naive_gradients(model, [get_blocks(model)[index] for index in plan.tuned])
    right = naive_gradients(emulator, [get_blocks(emulator)[place] for place in places])
    cosine = nn.functional.cosine_similarity
    for index, a, b in zip(plan.tuned, left, right, strict=True):
        assert found.block_gradient_cosine[index] == pytest.approx(float(cosine(a, b, dim=0)), abs=1e-5)
    overall = float(cosine(torch.cat(left), torch.cat(right), dim=0))
    assert found.gradient_cosine == pytest.approx(overall, abs=1e-5)

    p, states = naive_outputs(model, list(plan.tuned))
    q, others = naive_outputs(emulator, places)
    divergence = float((p * (p / q).log()).sum(-1).mean())
    assert found.kl == pytest.approx(divergence, rel=1e-4)
    errors = [float((b - a).norm() / a.norm()) for a, b in zip(states, others, strict=True)]
    assert list(found.block_state_error.values()) == pytest.approx(errors, rel=1e-5)
    assert found.state_error == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert found.num_answer_tokens == len(p) == 12
    # The test would be worth little on an emulator that is nearly the model.
    assert found.kl > 1e-3
    assert found.gradient_cosine < 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_an_emulator_that_keeps_every_block_is_the_model_exactly(family: str) -> None:
    found = measured(tiny_model(family), EVERY)
    assert (found.gradient_cosine, found.kl, found.state_error) == (1.0, 0.0, 0.0)
    assert set(found.block_gradient_cosine.values()) == {1.0}
    assert set(found.block_state_error.values()) == {0.0}


def test_how_batches_are_cut_changes_nothing_but_rounding() -> None:
    model, plan = tiny_model("llama"), PLANS["shared"]
    one, several = measured(model, plan, 1000), measured(model, plan, 1)
    for name in ("gradient_cosine", "kl", "state_error"):
        assert getattr(one, name) == pytest.approx(getattr(several, name), rel=1e-4), name


def test_logits_exist_for_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = tiny_model("llama"), PLANS["removed"]
    expected, seen = measured(model, plan, 1000), []
    model.lm_head.register_forward_hook(lambda _, args, output: seen.append(output.shape[:-1].numel()))
    monkeypatch.setattr(proxy_passes, "HEAD_ROWS", 5)
    found = measured(model, plan, 1000)
    assert max(seen) == 5
    assert sum(seen) >= 2 * 12
    assert found.gradient_cosine == pytest.approx(expected.gradient_cosine, abs=1e-6)
    assert found.kl == pytest.approx(expected.kl, rel=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model, plan = tiny_model("llama"), PLANS["shared"]
    model.lm_head.requires_grad_(False)
    emulator = with_layout(model, plan)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [[parameter.requires_grad for parameter in each.parameters()] for each in (model, emulator)]
    measure_proxies(model, emulator, plan, rows())
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert [[parameter.requires_grad for parameter in each.parameters()] for each in (model, emulator)] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in emulator.modules())


def test_a_divergence_of_very_unlike_distributions_is_finite() -> None:
    """Logits that are hundreds apart: probabilities underflow, logarithms do not."""
    model, plan = tiny_model("llama"), PLANS["removed"]
    with torch.no_grad():
        model.lm_head.weight.mul_(500)
    found = measured(model, plan)
    assert 50 < found.kl < math.inf


def test_bad_input() -> None:
    model, plan = tiny_model("llama"), PLANS["removed"]
    with pytest.raises(InputError, match="rows without an answer"):
        measure_proxies(model, with_layout(model, plan), plan, [Example((1, 2), ())])
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        measured(model, plan)
