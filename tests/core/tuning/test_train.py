"""Tuning: schedules by formula, equal updates however it is cut, bit-identical resuming, and a stop before harm."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tasks.core.batching import Example, collate, training_batch
from tasks.core.blocks.surgery import tuned_parameters, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.losses import AnswerLoss, mean_loss
from tasks.core.tuning.settings import Schedule, TrainSettings
from tasks.core.tuning.train import learning_rate_factor, num_training_steps, train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, tiny_model

PLAN = fixed_plan(NUM_BLOCKS, [0, 2, 3, 5], [0, 5])
SHARED = fixed_plan(NUM_BLOCKS, [0, 2, 5], [0, 5], "all")
SETTINGS = TrainSettings(learning_rate=1e-2, num_steps=6, batch_size=4, checkpoint_steps=2, seed=3)


class Kept:
    """A checkpoint in memory that remembers every save."""

    def __init__(self, content: Any = None) -> None:
        self.saves: list[Any] = [content] if content else []

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.saves.append(({name: tensor.clone() for name, tensor in tensors.items()}, dict(facts)))

    def load(self) -> Any:
        return self.saves[-1] if self.saves else None


def examples(count: int = 10, seed: int = 0) -> list[Example]:
    """Rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(1, count + 1):
        ids = torch.randint(3, VOCABULARY, (4 + number % 5,), generator=generator).tolist()
        rows.append(Example(tuple(ids[:-2]), tuple(ids[-2:]), number))
    return rows


def emulator(plan=PLAN, dropout: float = 0.0, family: str = "opt") -> torch.nn.Module:
    """An emulator of a tiny random model; the full model's own dropout is switched on where asked for."""
    model = with_layout(tiny_model(family), plan)
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = dropout
    return model


def tune(model: torch.nn.Module, settings: TrainSettings = SETTINGS, plan=PLAN, **options: Any) -> tuple:
    """Train; the result, the tuned tensors and the metrics of each step."""
    seen: dict[int, dict[str, float]] = {}
    rows = options.pop("examples", examples())
    options = {"device": "cpu", "on_metrics": lambda step, values: seen.update({step: values})} | options
    result = train(TunedBlocks(model, plan), rows, options.pop("validation", []), settings, **options)
    return result, {name: tensor.clone() for name, tensor in tuned_state(model, plan).items()}, seen


def test_one_step_equals_adamw_by_hand():
    settings = replace(SETTINGS, num_steps=1, weight_decay=0.1, clip_norm=0.5)
    model = emulator()
    before = {name: tensor.clone() for name, tensor in tuned_state(model, PLAN).items()}
    rows = [examples()[index] for index in training_batch(10, 4, settings.seed, 0)]
    batch = collate(rows, 0)
    plain = emulator()
    loss = plain(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False).loss
    loss.backward()
    gradients = {
        f"{block}.{name}": parameter.grad
        for block, position in ((0, 0), (5, 3))
        for name, parameter in plain.model.decoder.layers[position].named_parameters()
    }
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    result, after, seen = tune(model, settings)
    assert result.final_loss == pytest.approx(loss.item(), abs=1e-5)
    assert seen[1]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for name, old in before.items():
        clipped = gradients[name] * min(1.0, 0.5 / float(norm))
        # At the first step the moments are the gradient and its square, so that only the sign is left.
        expected = old * (1 - 1e-2 * 0.1) - 1e-2 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(after[name], expected, atol=1e-4, rtol=1e-3)


def test_many_steps_equal_a_plain_loop():
    """Stock AdamW over the Hugging Face loss: order of rows, schedule, betas, decay and clipping in one."""
    settings = replace(SETTINGS, num_steps=7, warmup_steps=2, weight_decay=0.1, clip_norm=0.5, betas=(0.6, 0.7))
    plain = emulator(family="llama")
    parameters = tuned_parameters(plain, PLAN)
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, settings.betas, weight_decay=0.1, fused=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(settings, step, 7))
    for step in range(7):
        batch = collate([examples()[index] for index in training_batch(10, 4, settings.seed, step)], 0)
        optimizer.zero_grad()
        plain(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        schedule.step()
    _, found, _ = tune(emulator(family="llama"), settings)
    for name, tensor in tuned_state(plain, PLAN).items():
        torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_schedules_by_formula(schedule):
    settings = replace(SETTINGS, schedule=schedule, warmup_steps=4)
    found = [learning_rate_factor(settings, step, 20) for step in range(20)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    by_formula = {
        "constant": lambda share: 1.0,
        "linear": lambda share: 1 - share,
        "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    }
    assert found[4:] == pytest.approx([by_formula[schedule]((step - 4) / 16) for step in range(4, 20)])


def test_the_learning_rate_that_is_reported_is_used():
    _, _, seen = tune(emulator(), replace(SETTINGS, warmup_steps=2))
    rates = [seen[step]["learning_rate"] for step in range(1, 7)]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2, *(1e-2 * (1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3))])


def test_epochs_are_counted_in_steps_with_a_smaller_last_batch():
    settings = replace(SETTINGS, num_steps=None, num_epochs=3)
    assert num_training_steps(settings, 10) == 9
    result, _, seen = tune(emulator(), settings)
    assert result.num_steps == 9
    assert len(seen) == 9
    assert result.num_tokens == 3 * sum(row.num_tokens for row in examples())


def test_small_forward_passes_give_the_same_update():
    _, large, _ = tune(emulator(), replace(SETTINGS, max_tokens=10_000))
    _, small, _ = tune(emulator(), replace(SETTINGS, max_tokens=1))
    for name, tensor in large.items():
        # A bias of keys shifts all scores of a query alike: its gradient is rounding noise, which Adam scales up.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(small[name], tensor, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("plan", [PLAN, SHARED], ids=["plain", "shared"])
def test_only_tuned_blocks_change(family, plan):
    model = with_layout(tiny_model(family), plan)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tuned = {name: tensor.clone() for name, tensor in tuned_state(model, plan).items()}
    tune(model, replace(SETTINGS, num_steps=2), plan)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        if id(parameter) not in trained:
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None
    moved = [not torch.equal(tensor, tuned[name]) for name, tensor in tuned_state(model, plan).items()]
    assert sum(moved) > 0.8 * len(moved)


@pytest.mark.parametrize("plan", [PLAN, SHARED], ids=["plain", "shared"])
def test_frozen_parameters_cost_neither_gradients_nor_optimizer_state(plan):
    model, kept = with_layout(tiny_model("llama"), plan), Kept()
    tune(model, replace(SETTINGS, eval_steps=1), plan, checkpoint=kept, validation=examples(2))
    tuned = {id(parameter) for parameter in tuned_parameters(model, plan)}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in tuned), name
        assert (parameter.grad is not None) == (id(parameter) in tuned), name
    names = set(tuned_state(model, plan))
    expected = {f"{part}/{name}" for part in ("tuned", "best") for name in names} | {"random/cpu"}
    moments = ("step", "exp_avg", "exp_avg_sq")
    expected |= {f"optimizer/{index}/{moment}" for index in range(len(names)) for moment in moments}
    found = {name for name in kept.saves[-1][0] if not name.startswith("random/cuda/")}
    assert found == expected


def test_dropout_is_active_while_training():
    assert tune(emulator(dropout=0.5))[2][1]["loss"] != tune(emulator())[2][1]["loss"]


def test_dropout_is_off_in_validation_and_on_again_afterwards():
    settings = replace(SETTINGS, learning_rate=1e-12, eval_steps=1)
    _, _, seen = tune(emulator(dropout=0.5), settings, validation=examples(4, seed=9))
    expected = mean_loss(AnswerLoss(emulator()), [collate(examples(4, seed=9), 0)])
    assert [values["validation_loss"] for values in seen.values()] == pytest.approx([expected] * 6, abs=1e-5)
    assert seen[2]["loss"] != tune(emulator(), settings)[2][2]["loss"]


def test_the_best_state_by_validation_is_kept():
    settings = replace(SETTINGS, num_steps=8, eval_steps=1, learning_rate=0.3, schedule="constant")
    model = emulator()
    result, state, seen = tune(model, settings, validation=examples(4, seed=9))
    losses = {step: values["validation_loss"] for step, values in seen.items()}
    assert len(losses) == 8
    assert result.best_step == min(losses, key=losses.__getitem__)
    assert result.best_validation_loss == min(losses.values())
    assert result.best_step < 8, "the case must have its best state before the end"
    _, early, _ = tune(emulator(), replace(settings, num_steps=result.best_step))
    assert all(torch.equal(state[name], early[name]) for name in state)


def test_the_last_interval_is_validated_too():
    _, _, seen = tune(emulator(), replace(SETTINGS, eval_steps=4), validation=examples(2))
    assert [step for step, values in seen.items() if "validation_loss" in values] == [4, 6]


def test_bfloat16_keeps_tuned_blocks_wide_and_learns():
    model = emulator()
    frozen = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    result, state, seen = tune(model, replace(SETTINGS, num_steps=20), precision="bfloat16")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    narrow = [name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16]
    assert narrow
    assert set(narrow) <= set(frozen)
    assert result.final_loss < seen[1]["loss"]


def test_different_seeds_see_rows_in_different_orders():
    first, second = (tune(emulator(), replace(SETTINGS, seed=seed))[2] for seed in (0, 1))
    assert first[1]["loss"] != second[1]["loss"]


def test_no_rows_is_an_input_error():
    with pytest.raises(InputError, match="no training rows"):
        tune(emulator(), examples=[])
