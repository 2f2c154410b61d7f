"""Early stopping, gradient checkpointing, and variants that are interrupted or tuned by several processes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.surgery import with_layout
from tasks.core.errors import InputError, InterruptedRun
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.lora import linear_modules
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import TrainResult, train
from tasks.core.tuning.trainable import make_trained
from tests.core.pair import Pair, pair
from tests.core.tiny_models import NUM_BLOCKS, tiny_model
from tests.core.tuning.test_train import SETTINGS, Kept, emulator, examples, tune

__all__ = ["pair"]
PLAN = fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5), "all")
LORA = TuningMethod("lora", trained="all", lm_head=True, lora_dropout=0.3)
ADAPTER = TuningMethod("adapter", trained="all", adapter_size=5)
VALIDATION = examples(4, seed=9)


def tune_variant(
    variant: TuningMethod, settings: TrainSettings = SETTINGS, family: str = "llama", **options: Any
) -> tuple[TrainResult, dict[str, Tensor]]:
    """A fresh emulator, trained, and its state."""
    trained = make_trained(with_layout(tiny_model(family), PLAN), PLAN, variant, settings.seed)
    result = train(trained, examples(), VALIDATION, settings, **options)
    return result, {name: tensor.clone() for name, tensor in result.state.items()}


@pytest.mark.parametrize("variant", [LORA, ADAPTER], ids=lambda variant: variant.method)
def test_stopped_after_every_step_a_variant_ends_with_the_same_bits(variant: TuningMethod) -> None:
    settings = replace(SETTINGS, eval_steps=2, checkpoint_steps=100)
    expected, state = tune_variant(variant, settings)
    kept, num_stops = Kept(), 0
    while True:
        try:
            torch.rand(3)  # whatever happens in between
            result, found = tune_variant(variant, settings, checkpoint=kept, should_stop=lambda: True)
            break
        except InterruptedRun:
            num_stops += 1
    assert num_stops == 5
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert replace(result, seconds=0.0) == replace(expected, seconds=0.0)


def stale(settings: TrainSettings, **options: Any) -> tuple:
    """A tuning at so high a rate that validation soon gets worse."""
    return tune(emulator(), settings, validation=VALIDATION, **options)


PATIENT = replace(SETTINGS, num_steps=30, eval_steps=1, learning_rate=0.3, schedule="constant", checkpoint_steps=1)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_a_tuning_that_gets_no_better(patience: int) -> None:
    _, _, whole = stale(PATIENT)
    losses = [values["validation_loss"] for values in whole.values()]
    # By hand: the first place with so many values behind the lowest so far, none of them lower.
    best = [losses.index(min(losses[: place + 1])) for place in range(len(losses))]
    last = next(place for place in range(len(losses)) if place - best[place] == patience)
    result, state, seen = stale(replace(PATIENT, patience=patience))
    assert list(seen) == list(range(1, last + 2))
    assert last + 1 < 30, "the case must end early"
    assert (result.num_steps, result.best_step, result.stopped_early) == (last + 1, best[last] + 1, True)
    _, early, _ = stale(replace(PATIENT, num_steps=best[last] + 1))
    assert all(torch.equal(state[name], tensor) for name, tensor in early.items())


def test_patience_that_is_never_at_its_end_changes_nothing() -> None:
    settings = replace(SETTINGS, eval_steps=2)
    first, second = stale(settings), stale(replace(settings, patience=3))
    assert all(torch.equal(second[1][name], tensor) for name, tensor in first[1].items())
    assert second[0].summary().keys() == first[0].summary().keys()
    assert "patience" not in settings.cache_view()


@pytest.mark.parametrize("stop", [1, 2, 3, None])
def test_patience_counts_on_behind_an_interruption(stop: int | None) -> None:
    settings = replace(PATIENT, patience=3)
    expected, state, whole = stale(settings)
    kept, steps = Kept(), iter(range(1, 100))
    last = stop or expected.num_steps
    if stop:
        with pytest.raises(InterruptedRun):
            stale(settings, checkpoint=kept, should_stop=lambda: next(steps) == stop)
    else:
        # Killed behind its last checkpoint, when patience was at its end already.
        stale(settings, checkpoint=kept)
    result, found, seen = stale(settings, checkpoint=kept)
    assert list(seen) == list(range(last + 1, len(whole) + 1))
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert replace(result, seconds=0.0) == replace(expected, seconds=0.0)


def test_patience_needs_validations() -> None:
    with pytest.raises(InputError, match=r"patience needs validation losses: give eval_steps"):
        replace(SETTINGS, patience=2)


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "gemma3", "gptj"])
def test_gradient_checkpointing_gives_the_same_bits_and_runs_blocks_again(family: str) -> None:
    model, again = emulator(PLAN, 0.3, family), emulator(PLAN, 0.3, family)
    counts = {id(model): 0, id(again): 0}
    for each in (model, again):

        def count(*_: Any, own: int = id(each)) -> None:
            counts[own] += 1

        # Some releases of transformers leave the block's own hooks out of what is run again.
        next(iter(linear_modules(get_blocks(each)[0]).values())).register_forward_hook(count)
    _, expected, seen = tune(model, plan=PLAN)
    settings = replace(SETTINGS, gradient_checkpointing=True)
    _, state, repeated = tune(again, settings, plan=PLAN)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert [values["loss"] for values in repeated.values()] == [values["loss"] for values in seen.values()]
    assert counts[id(again)] == 2 * counts[id(model)], "each training pass runs a block a second time"
    assert not any(getattr(module, "gradient_checkpointing", False) for module in again.modules()), "it is off again"
    assert settings.cache_view() == SETTINGS.cache_view()


def test_gradient_checkpointing_with_factors_gives_the_same_bits() -> None:
    _, expected = tune_variant(LORA, family="opt")
    _, state = tune_variant(LORA, replace(SETTINGS, gradient_checkpointing=True), family="opt")
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_gradient_checkpointing_keeps_less() -> None:
    """Bytes that the backward pass waits for, counted by autograd itself."""

    def kept(settings: TrainSettings) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            train(
                make_trained(emulator(PLAN), PLAN, TuningMethod("lora")), examples(), [], replace(settings, num_steps=1)
            )
        return total

    plain = kept(SETTINGS)
    assert 0 < kept(replace(SETTINGS, gradient_checkpointing=True)) < plain


def test_a_family_that_cannot_compute_again() -> None:
    model = emulator()
    type(model).supports_gradient_checkpointing, before = False, type(model).supports_gradient_checkpointing
    try:
        with pytest.raises(InputError, match=r"gradient_checkpointing = true, but OPTForCausalLM cannot"):
            tune(model, replace(SETTINGS, gradient_checkpointing=True))
    finally:
        type(model).supports_gradient_checkpointing = before


def by_both(rank: int, variant: TuningMethod, parallel: str, family: str) -> tuple[TrainResult, dict[str, Tensor]]:
    """A tuning without dropout, by all processes of a group or by one."""
    trained = make_trained(emulator(PLAN, 0.0, family), PLAN, variant, 3)
    for module in trained.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # Going back each process of several gathers blocks a second time.
    again = parallel != "layers"
    settings = replace(SETTINGS, learning_rate=1e-4, schedule="constant", eval_steps=2, gradient_checkpointing=again)
    result = train(trained, examples(11), VALIDATION, settings, parallel=parallel)
    state, result.state = {name: tensor.clone() for name, tensor in result.state.items()}, {}
    return result, state


@pytest.mark.parametrize("parallel", ["data", "sharded"])
@pytest.mark.parametrize(
    ("variant", "family"),
    [(replace(LORA, lora_dropout=0.0), "llama"), (ADAPTER, "opt"), (TuningMethod(trained="frozen"), "llama")],
    ids=["lora", "adapter", "frozen"],
)
def test_two_processes_end_with_what_one_does(pair: Pair, variant: TuningMethod, family: str, parallel: str) -> None:
    expected, one = by_both(0, variant, "layers", family)
    (found, two), _ = pair.run(by_both, variant, parallel, family)
    assert two.keys() == one.keys()
    assert (found.num_processes, found.num_parameters) == (2, expected.num_parameters)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=name)
