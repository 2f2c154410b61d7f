"""A device whose memory does not suffice (F18): once the batch is cut finer, with the same loss; then it ends."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tasks.core.blocks.locate_blocks import get_stack
from tasks.core.errors import EnvironmentFault
from tasks.core.tuning.settings import TrainSettings
from tests.core.tuning.test_train import SETTINGS, Kept, emulator, examples
from tests.core.tuning.test_train import tune as tune_plainly

# Of 4 rows with up to 8 tokens, two passes; and the usual rate: Adam scales up the rounding of gradients that are
# almost zero until it is a share of the rate.
CUT = replace(SETTINGS, max_tokens=16, learning_rate=2e-5, schedule="constant")
FAULTS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "python": MemoryError("cannot allocate"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
}


def tune(model: torch.nn.Module, settings: TrainSettings = CUT, **options: Any) -> tuple:
    """As everywhere, over rows of which every batch is full."""
    return tune_plainly(model, settings, **{"examples": examples(12)} | options)


class Scarce:
    """An emulator whose training passes are counted, and fail where `fails(number of the pass from 1, tokens)`."""

    def __init__(self, fails: Callable[[int, int], bool], error: BaseException = FAULTS["cuda"]) -> None:
        self.model = emulator(family="llama")
        self.fails, self.error = fails, error
        self.sizes: list[int] = []
        self.num_faults = 0
        get_stack(self.model).register_forward_hook(self._after, with_kwargs=True)

    def _after(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not module.training:
            return
        self.sizes.append(kwargs["input_ids"].numel())
        if self.fails(len(self.sizes), self.sizes[-1]):
            self.num_faults += 1
            raise self.error


def most_apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any two values."""
    return max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", FAULTS)
def test_a_step_that_does_not_fit_is_done_again_in_halves(kind, caplog):
    settings, options = replace(CUT, eval_steps=3), {"validation": examples(4, seed=9)}
    plain = Scarce(lambda number, size: False)
    _, expected, undisturbed = tune(plain.model, settings, **options)
    assert len(plain.sizes) == 12, "two passes a step"
    # The second pass of step 3: the first one has left gradients that must not count twice.
    scarce = Scarce(lambda number, size: number == 6, FAULTS[kind])
    with caplog.at_level(logging.WARNING):
        result, found, seen = tune(scarce.model, settings, **options)
    assert scarce.num_faults == 1
    assert scarce.sizes[:6] == plain.sizes[:6]
    largest = max(plain.sizes[4:6])
    assert len(scarce.sizes[6:]) == 4 * 4, "one row each, so four passes, in that step and the three that follow"
    assert most_apart(found, expected) < 1e-6
    assert most_apart(found, tune(emulator(family="llama"), replace(settings, num_steps=5))[1]) > 1e-5
    for step, values in undisturbed.items():
        assert seen[step]["loss"] == pytest.approx(values["loss"], abs=1e-6)
    recorded = {"out_of_memory_step": 3, "max_tokens": largest // 2}
    assert recorded.items() <= result.summary().items()
    [said] = [record.getMessage() for record in caplog.records]
    assert f"out of memory at step 3 of 6 in a forward pass of {largest} tokens" in said


def test_what_was_not_needed_is_not_recorded():
    result, _, _ = tune(emulator(), CUT)
    assert not {"out_of_memory_step", "max_tokens"} & result.summary().keys()


def test_a_second_time_ends_with_advice_and_keeps_the_checkpoint():
    kept = Kept()
    scarce = Scarce(lambda number, size: number in (6, 14))
    with pytest.raises(
        EnvironmentFault, match=r"after 3 of 6 steps, although .* halved to \d+ .*checkpoint of step 2"
    ) as info:
        tune(scarce.model, CUT, checkpoint=kept)
    assert scarce.num_faults == 2
    assert info.value.exit_code == 4
    for advice in ("Lower max_tokens", "place.gpus_per_stage", "model.precision"):
        assert advice in str(info.value)
    assert all(facts["step"] <= 4 for _, facts in kept.saves)


def test_a_row_that_never_fits_ends_it_at_its_step():
    scarce = Scarce(lambda number, size: number >= 6)
    with pytest.raises(EnvironmentFault, match="after 2 of 6 steps, although"):
        tune(scarce.model, CUT)
    assert scarce.num_faults == 2, "tried again once"


def test_the_finer_cut_is_kept_by_a_resumed_tuning():
    kept, scarce = Kept(), Scarce(lambda number, size: number == 1)
    steps = iter(range(1, 100))
    with pytest.raises(Exception, match="stopped after step 3"):
        tune(scarce.model, CUT, checkpoint=kept, should_stop=lambda: next(steps) == 3)
    again = Scarce(lambda number, size: size > scarce.sizes[0] // 2)
    result, found, _ = tune(again.model, CUT, checkpoint=kept)
    assert (again.num_faults, result.out_of_memory_step) == (0, 1)
    assert most_apart(found, tune(emulator(family="llama"), CUT)[1]) < 1e-6


def test_validation_that_does_not_fit_ends_with_advice():
    model = emulator()

    def fail(module: torch.nn.Module, *_: Any) -> None:
        if not module.training:
            raise FAULTS["cuda"]

    get_stack(model).register_forward_hook(fail)
    with pytest.raises(EnvironmentFault, match=r"after 2 of 6 steps; .*Lower max_tokens"):
        tune(model, replace(CUT, eval_steps=2), validation=examples(2))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    scarce = Scarce(lambda number, size: number == 2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        tune(scarce.model, CUT)
    assert len(scarce.sizes) == 2
