"""Tunings that end early: resumed to the same bits, and stopped before a number that is not finite does harm."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.core.batching import training_batch
from tasks.core.blocks.surgery import tuned_parameters, tuned_state
from tasks.core.errors import DivergedError, InterruptedRun
from tests.core.tiny_models import VOCABULARY
from tests.core.tuning.test_train import PLAN, SETTINGS, Kept, emulator, examples, tune


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resuming_gives_the_same_bits(stop, dropout):
    settings = replace(SETTINGS, eval_steps=2)
    options = {"validation": examples(4, seed=9)}
    whole = tune(emulator(dropout=dropout), settings, checkpoint=Kept(), **options)
    kept = Kept()
    steps = iter(range(1, 100))
    with pytest.raises(InterruptedRun, match=f"stopped after step {stop} of 6"):
        tune(
            emulator(dropout=dropout),
            settings,
            checkpoint=kept,
            should_stop=lambda: next(steps) == stop,
            **options,
        )
    torch.manual_seed(12345)
    torch.rand(7)  # whatever happened in between
    result, state, seen = tune(emulator(dropout=dropout), settings, checkpoint=Kept(kept.load()), **options)
    assert all(torch.equal(state[name], tensor) for name, tensor in whole[1].items())
    assert min(seen) == stop + 1
    assert all(seen[step]["loss"] == whole[2][step]["loss"] for step in seen)
    assert (result.best_step, result.best_validation_loss) == (whole[0].best_step, whole[0].best_validation_loss)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_after_every_step_gives_the_same_bits(precision):
    settings = replace(SETTINGS, eval_steps=2, checkpoint_steps=100)
    options: dict[str, Any] = {"validation": examples(4, seed=9), "precision": precision}
    expected, state, _ = tune(emulator(dropout=0.3), settings, **options)
    kept, num_stops = Kept(), 0
    while True:
        # A fresh model and a fresh optimizer each time, as in a new process.
        try:
            result, found, seen = tune(
                emulator(dropout=0.3), settings, checkpoint=kept, should_stop=lambda: True, **options
            )
            break
        except InterruptedRun:
            num_stops += 1
    assert num_stops == 5
    assert list(seen) == [6], "asked to stop after the last step, it ends as any other"
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert replace(result, seconds=0.0) == replace(expected, seconds=0.0)


def test_a_step_is_reported_once_its_caller_was_asked_to_stop():
    # A stage answers its first request by a checkpoint only after it was asked: a step that is seen can be kept.
    order: list[str] = []
    tune(
        emulator(),
        should_stop=lambda: order.append("asked") is not None,
        on_metrics=lambda step, values: order.append("reported"),
    )
    assert order == ["asked", "reported"] * SETTINGS.num_steps


def test_a_tuning_killed_after_its_last_checkpoint_only_hands_over_its_state():
    settings = replace(SETTINGS, eval_steps=2)
    kept = Kept()
    options = {"checkpoint": kept, "validation": examples(4, seed=9)}
    expected, state, _ = tune(emulator(), settings, **options)
    assert len(kept.saves) == 3
    result, found, seen = tune(emulator(), settings, **options)
    assert (seen, len(kept.saves)) == ({}, 3)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert replace(result, seconds=0.0) == replace(expected, seconds=0.0)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step():
    model = emulator()
    kept = Kept()
    before: dict[str, Tensor] = {}

    def break_after_three(step: int, values: dict[str, float]) -> None:
        if step == 3:
            with torch.no_grad():
                model.get_output_embeddings().weight.fill_(float("nan"))
            before.update({name: tensor.clone() for name, tensor in tuned_state(model, PLAN).items()})

    with pytest.raises(DivergedError, match=r"loss is not finite at step 4 of 6, learning rate .*checkpoint of step 2"):
        tune(model, checkpoint=kept, on_metrics=break_after_three)
    after = tuned_state(model, PLAN)
    assert before
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(kept.saves) == 1


def unchanged_by(model: torch.nn.Module, message: str) -> None:
    """Fail unless tuning stops at its first step with this message and has changed nothing."""
    before = {name: tensor.clone() for name, tensor in tuned_state(model, PLAN).items()}
    with pytest.raises(DivergedError, match=message):
        tune(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned_state(model, PLAN).items())


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_although_the_loss_is(factor):
    model = emulator()
    tuned_parameters(model, PLAN)[-1].register_hook(lambda gradient: gradient * factor)
    unchanged_by(model, "the gradient is not finite at step 1 of 6")


def test_a_loss_that_is_infinite_stops_although_the_gradient_is_finite():
    model = emulator()
    # An answer that the head rules out has an infinite loss and a gradient that does not know of it.
    impossible = torch.arange(VOCABULARY) == examples()[training_batch(10, 4, SETTINGS.seed, 0)[0]].answer_ids[0]
    model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: logits.masked_fill(impossible, float("-inf"))
    )
    unchanged_by(model, "the loss is not finite at step 1 of 6")


def test_divergence_names_the_rows_and_says_that_nothing_was_saved():
    with pytest.raises(
        DivergedError, match=r"step \d of 6, learning rate .*training rows \[.*no checkpoint was"
    ) as info:
        tune(emulator(), replace(SETTINGS, learning_rate=1e30, schedule="constant"))
    assert info.value.exit_code == 5


def test_weights_that_the_last_step_broke_are_no_result():
    """No loss follows the last step, so none can tell."""
    settings = replace(SETTINGS, num_steps=1, schedule="constant")
    assert tune(emulator(), settings)[0].num_steps == 1
    with pytest.raises(DivergedError, match=r"0\.\S+ is not finite after the last step, 1, learning rate 1e\+39"):
        tune(emulator(), replace(settings, learning_rate=1e39))


def test_a_validation_loss_that_is_not_finite_stops():
    kept = Kept()
    settings = replace(SETTINGS, num_steps=1, learning_rate=1e30, schedule="constant", eval_steps=1)
    with pytest.raises(DivergedError, match=r"validation loss is not finite after step 1 of 1, learning rate 1e\+30"):
        tune(emulator(), settings, validation=examples(3), checkpoint=kept)
    assert not kept.saves, "a checkpoint of broken blocks would stop every rerun"
