"""Passes that begin in the middle give what whole passes give, bit for bit."""

import pytest
import torch

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.prefix import PrefixStates, reusing
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

EVERY = range(1, NUM_BLOCKS + 1)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled by `watch` with the number of each block whose own code ran."""
    return []


def watch(model: torch.nn.Module, ran: list[int]) -> None:
    """Note every block whose attention runs: blocks that only hand on never reach it."""
    for index, block in enumerate(get_blocks(model)):
        next(block.children()).register_forward_hook(lambda *_, index=index: ran.append(index))


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_every_position_gives_the_whole_pass(family: str, ran: list[int]) -> None:
    model, states = tiny_model(family), PrefixStates()
    watch(model, ran)
    ids, padded = token_ids(), torch.tensor([[1] * 12, [1] * 7 + [0] * 5])
    inputs = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": padded}]
    expected = [model(**each, use_cache=False).logits for each in inputs]
    assert not torch.equal(*expected)
    with reusing(model, states, EVERY):
        for each, logits in zip(inputs, expected, strict=True):
            assert torch.equal(model(**each, use_cache=False).logits, logits)
    for position in EVERY:
        with reusing(model, states, [position]):
            for each, logits in zip(inputs, expected, strict=True):
                ran.clear()
                # Twice: a state that a block changed in place would show.
                assert torch.equal(model(**each, use_cache=False).logits, logits)
                assert torch.equal(model(**each, use_cache=False).logits, logits)
                assert set(ran) == set(range(position, NUM_BLOCKS))
    ran.clear()
    assert torch.equal(model(**inputs[0], use_cache=False).logits, expected[0])
    assert set(ran) == set(range(NUM_BLOCKS))
    assert not any("forward" in vars(block) for block in get_blocks(model))


@torch.inference_mode()
def test_what_is_not_known_runs_whole(ran: list[int]) -> None:
    model, states = tiny_model("llama"), PrefixStates()
    watch(model, ran)
    with reusing(model, states, [2, 4]):
        model(token_ids(), use_cache=False)
        states.forget(4)
        ran.clear()
        model(token_ids(), use_cache=False)
        assert sorted(set(ran)) == [2, 3, 4, 5]
        ran.clear()
        other = token_ids(seed=5)
        logits = model(other, use_cache=False).logits
        assert sorted(set(ran)) == list(range(NUM_BLOCKS))
    assert torch.equal(logits, model(other, use_cache=False).logits)


@torch.inference_mode()
def test_a_change_above_the_position_shows() -> None:
    model, states = tiny_model("qwen2"), PrefixStates()
    with reusing(model, states, [3]):
        before = model(token_ids(), use_cache=False).logits
        for parameter in get_blocks(model)[3].parameters():
            parameter.mul_(1.5)
        after = model(token_ids(), use_cache=False).logits
    assert not torch.equal(before, after)
    assert torch.equal(after, model(token_ids(), use_cache=False).logits)


@torch.inference_mode()
def test_what_does_not_fit_is_computed_again() -> None:
    model = tiny_model("opt")
    one_state = 2 * 12 * 32 * 4
    states = PrefixStates(max_bytes=one_state)
    with reusing(model, states, EVERY):
        first = model(token_ids(), use_cache=False).logits
        assert states.num_bytes == one_state
        assert torch.equal(model(token_ids(), use_cache=False).logits, first)
        states.forget(1)
        assert states.num_bytes == 0


def test_an_error_inside_restores_the_model() -> None:
    model = tiny_model("gptj")
    with pytest.raises(RuntimeError, match="inside"), reusing(model, PrefixStates(), EVERY):
        raise RuntimeError("inside")
    assert not any("forward" in vars(block) for block in get_blocks(model))
    assert not any(module._forward_pre_hooks for module in model.modules())
