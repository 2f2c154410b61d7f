"""Effects of stand-ins on the loss: the product of gradient and error is what a small part of the error does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate
from tasks.core.blocks.partial_passes import state_of
from tasks.core.blocks.surgery import get_blocks
from tasks.core.stand_ins import effects
from tasks.core.stand_ins.effects import make_probe
from tasks.core.stand_ins.fitting import fit_stand_ins, measure_stand_ins
from tasks.core.stand_ins.residual_outputs import residual_outputs
from tests.core.tiny_models import NUM_BLOCKS, tiny_model, token_ids

RUN = (1, 3)
FAMILIES = ("llama", "opt", "gpt2", "bloom")


def batch_of(rows: list[list[int]]) -> Batch:
    return collate([Example(tuple(row[:-1]), tuple(row[-1:]), number) for number, row in enumerate(rows)], 0)


def rows() -> list[list[int]]:
    """Of two lengths, so that one is padded."""
    return [token_ids(1, 9, seed=1)[0].tolist(), token_ids(1, 6, seed=2)[0].tolist()]


def wide(family: str) -> Any:
    """A model in float64, where small differences are exact."""
    return tiny_model(family).double().eval()


@torch.no_grad()
def loss_with(model: nn.Module, row: list[int], add: Callable[[Tensor], Tensor]) -> float:
    """Sum of the losses of a row's next tokens, with something added to the state behind the run."""

    def hook(_: nn.Module, args: tuple, output: Any) -> Any:
        state = state_of(output)
        moved = state + add(state)
        return (moved, *output[1:]) if isinstance(output, tuple | list) else moved

    handle = get_blocks(model)[RUN[1]].register_forward_hook(hook)
    try:
        ids = torch.tensor([row])
        logits = model(ids, use_cache=False).logits[0, :-1]
        return float(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_effect_is_what_a_small_part_of_the_error_does_to_the_loss(family: str) -> None:
    model = wide(family)
    matrix = torch.eye(model.config.hidden_size) * 0.5
    probe = make_probe(model, residual_outputs(model), [batch_of(rows())], [RUN])
    left = probe.states[RUN[0]] - probe.states[RUN[1]] + probe.outputs[RUN[0]] @ (matrix - torch.eye(len(matrix)))
    # Some norms compute in float32: differences to both sides, not too small.
    changes, step, place = [], 1e-3, 0
    for row in rows():
        for token in range(len(row)):
            error = left[place].double()

            def add(state: Tensor, sign: int, error: Tensor = error, token: int = token) -> Tensor:
                moved = torch.zeros_like(state)
                moved[0, token] = sign * step * error
                return moved

            above, below = (loss_with(model, row, partial(add, sign=sign)) for sign in (1, -1))
            changes.append((above - below) / (2 * step))
            place += 1
    expected = sum(change**2 for change in changes) / len(changes)
    assert probe.effect(RUN, matrix) == pytest.approx(expected, rel=1e-2)


def test_a_run_that_does_nothing_has_none() -> None:
    model = tiny_model("llama")
    for block in get_blocks(model)[2:4]:
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
    probe = make_probe(model, residual_outputs(model), [batch_of(rows())], [RUN])
    assert probe.effect(RUN, torch.eye(model.config.hidden_size)) == 0


def test_a_probe_has_so_many_tokens_and_leaves_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "NUM_TOKENS", 20)
    model = tiny_model("llama")
    runs = [(0, 2), (1, 3)]
    batches = [batch_of(rows()) for _ in range(5)]
    seen = iter(batches)
    probe = make_probe(model, residual_outputs(model), seen, runs)
    assert {part: sorted(found) for part, found in vars(probe).items()} == {
        **{"outputs": [0, 1], "states": [0, 1, 2, 3], "gradients": [2, 3]}
    }
    assert {len(found) for part in vars(probe).values() for found in part.values()} == {20}
    assert len(list(seen)) == 3
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not block._forward_hooks for block in get_blocks(model))


def test_measured_errors_are_those_of_the_stand_ins_that_are_fitted() -> None:
    model = tiny_model("llama")
    examples = [Example(tuple(token_ids(1, 12, seed=seed)[0].tolist()), (5,), seed) for seed in range(10)]
    runs = [(first, last) for first in range(NUM_BLOCKS) for last in range(first + 1, NUM_BLOCKS)]
    _, fitted = fit_stand_ins(model, examples, runs)
    measured = list(measure_stand_ins(model, examples, runs))
    expected = [(each.run, each.error, each.error_without) for each in fitted]
    assert [(each.run, each.error, each.error_without) for each in measured] == expected
    assert all(each.effect > 0 for each in measured)
