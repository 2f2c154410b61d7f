"""Partial forward passes give what the whole pass gives, and run nothing else."""

import pytest
import torch
from torch import nn
from transformers import LlamaModel, OPTConfig, PreTrainedModel
from transformers.models.opt import OPTForCausalLM

from tasks.core.blocks.surgery import base_model_and_head, capture_blocks, final_norm, get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import full_plan
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

# One row of the batch is padded on the left, as in generation, the other on the right, as in training.
MASK = torch.ones(2, 12, dtype=torch.long)
MASK[0, :3] = 0
MASK[1, -3:] = 0


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


@torch.no_grad()
def test_captured_states_are_the_hidden_states(model: PreTrainedModel) -> None:
    """The framework norms its last state; all others are raw. Every family, so also blocks that return tuples."""
    *raw, normed = model(token_ids(), attention_mask=MASK, output_hidden_states=True).hidden_states
    with capture_blocks(model) as run:
        states = run(token_ids(), MASK)
        again = run(token_ids(), MASK)
    assert len(states) == NUM_BLOCKS + 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(states[:-1], raw, strict=True))
    assert not torch.allclose(states[-1], normed)
    assert torch.equal(final_norm(model)(states[-1]), normed)
    assert all(torch.equal(first, second) for first, second in zip(states, again, strict=True))


@torch.no_grad()
def test_capturing_stops_early_and_cleans_up(model: PreTrainedModel) -> None:
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    ran = []
    watchers = [block.register_forward_pre_hook(lambda module, _: ran.append(module)) for block in get_blocks(model)]
    watchers.append(final_norm(model).register_forward_pre_hook(lambda module, _: ran.append(module)))
    with capture_blocks(model, reduce=lambda index, state: (index, state.shape), last=2) as run:
        states = run(token_ids(), MASK)
    assert states == [(index, (2, 12, 32)) for index in range(4)]
    assert ran == list(get_blocks(model))[:3]
    with capture_blocks(model) as run:
        run(token_ids())
    assert final_norm(model) not in ran
    for watcher in watchers:
        watcher.remove()
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks


def test_errors_in_a_reduction_are_not_swallowed() -> None:
    model = tiny_model("llama")

    def broken(_: int, __: torch.Tensor) -> None:
        raise ZeroDivisionError

    with capture_blocks(model, reduce=broken) as run, pytest.raises(ZeroDivisionError):
        run(token_ids())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_stopping_after_a_block_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(InputError, match="no block 6 to stop after: the model has blocks 0 to 5"),
        capture_blocks(tiny_model("llama"), last=6),
    ):
        pass


def test_the_head_gives_the_models_logits_and_gradients(model: PreTrainedModel) -> None:
    emulator = with_layout(model, full_plan(NUM_BLOCKS))
    ids, selected = token_ids(), MASK.bool()
    expected = emulator(ids, attention_mask=MASK).logits[selected]
    expected.logsumexp(-1).sum().backward()
    gradients = [parameter.grad.clone() for parameter in emulator.parameters() if parameter.requires_grad]
    emulator.zero_grad()

    base, head = base_model_and_head(emulator)
    logits = head(base(input_ids=ids, attention_mask=MASK).last_hidden_state[selected])
    torch.testing.assert_close(logits, expected)
    logits.logsumexp(-1).sum().backward()
    ours = [parameter.grad for parameter in emulator.parameters() if parameter.requires_grad]
    assert len(ours) == len(gradients) > 0
    torch.testing.assert_close(ours, gradients)


@pytest.mark.filterwarnings("ignore")
def test_a_head_may_read_the_stack() -> None:
    """Falcon-H1 multiplies its logits by a number that the stack keeps, not the head."""
    model = tiny_model("falcon_h1")
    model.model.lm_head_multiplier = 3.0
    base, head = base_model_and_head(model)
    with torch.no_grad():
        hidden = base(token_ids(), use_cache=False).last_hidden_state
        torch.testing.assert_close(head(hidden[0]), model(token_ids(), use_cache=False).logits[0])


def test_soft_caps_are_part_of_the_head() -> None:
    """Gemma-2 bounds its logits: the bare output matrix alone would be wrong."""
    model = tiny_model("gemma2")
    _, head = base_model_and_head(model)
    hidden = torch.randn(5, 32) * 100
    assert model.config.final_logit_softcapping == 30
    assert head(hidden).abs().max() <= 30 < model.get_output_embeddings()(hidden).abs().max()


def test_the_head_follows_later_changes_of_the_model() -> None:
    model = tiny_model("llama")
    _, head = base_model_and_head(model)
    hidden = torch.randn(5, 32)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(head(hidden), torch.zeros(5, 64))
    assert isinstance(model.model, LlamaModel), "the model itself keeps its stack"


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match="LlamaModel has no language-model head"):
        base_model_and_head(tiny_model("llama").model)


def test_a_family_without_a_final_norm() -> None:
    """OPT-350M norms inside its blocks only, and projects to narrower embeddings."""
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16, do_layer_norm_before=False,
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    assert isinstance(final_norm(model), nn.Identity)
    base, head = base_model_and_head(model)
    with torch.no_grad():
        hidden = base(token_ids()).last_hidden_state
        torch.testing.assert_close(head(hidden[0]), model(token_ids()).logits[0])
