"""Laws of model surgery, on every family: nothing is computed differently, nothing copied, nothing left behind."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tasks.core.blocks.surgery import get_blocks, layout, plug_in, tuned_state, with_layout
from tasks.core.plan.layout import Plan, fixed_plan, full_plan
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

# Kept blocks are of both kinds, tuned and frozen ones are repeated, and a repetition changes its position's kind.
KEPT, TUNED = (0, 1, 3, 4), (0, 3)
REMOVED = fixed_plan(NUM_BLOCKS, KEPT, TUNED, share=None)
SHARED = fixed_plan(NUM_BLOCKS, KEPT, TUNED, share="all")
EVERYTHING = [full_plan(NUM_BLOCKS), fixed_plan(NUM_BLOCKS, tuple(range(NUM_BLOCKS)), (1, 4), share="all")]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """One model a family for the whole module; every test must leave it as it was."""
    tiny = tiny_model(request.param)
    before = fingerprint(tiny)
    yield tiny
    assert fingerprint(tiny) == before


def fingerprint(model: nn.Module) -> tuple:
    """All that surgery could change in a model: objects, values, flags, config, hooks."""
    return (
        [(name, id(module), len(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, id(p), p.data_ptr(), p.requires_grad, p.double().sum().item()) for name, p in model.named_parameters()],
        model.config.to_json_string(use_diff=False),
        list(vars(model.config)),
    )


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor | None = None, **options: object) -> Tensor:
    return model(token_ids() if ids is None else ids, **options).logits


def generated(model: nn.Module, use_cache: bool) -> Tensor:
    """[2, 12 + 8] greedy tokens."""
    ids = token_ids()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


def storages(tensors: object) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("plan", EVERYTHING, ids=["tuned", "partly tuned"])
def test_keeping_every_block_is_the_full_model_bit_for_bit(model: PreTrainedModel, plan: Plan) -> None:
    emulator = with_layout(model, plan)
    for use_cache in (True, False):
        assert torch.equal(logits(emulator, use_cache=use_cache), logits(model, use_cache=use_cache))
        assert torch.equal(generated(emulator, use_cache), generated(model, use_cache))


def test_plugging_in_untouched_blocks_is_the_full_model_bit_for_bit(model: PreTrainedModel) -> None:
    plugged = plug_in(model, tuned_state(with_layout(model, SHARED), SHARED), SHARED)
    for use_cache in (True, False):
        assert torch.equal(logits(plugged, use_cache=use_cache), logits(model, use_cache=use_cache))
        assert torch.equal(generated(plugged, use_cache), generated(model, use_cache))


def test_removing_blocks_equals_stepping_over_them(model: PreTrainedModel) -> None:
    """Reference: the full model, where a removed block hands its input on: masks and depths are the original ones."""

    def step_over(_: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    with ExitStack() as hooks:
        for index in set(range(NUM_BLOCKS)) - set(KEPT):
            hooks.callback(get_blocks(model)[index].register_forward_hook(step_over).remove)
        expected = logits(model, use_cache=False)
    emulator = with_layout(model, REMOVED)
    assert emulator.config.num_hidden_layers == len(get_blocks(emulator)) == len(KEPT)
    for use_cache in (True, False):
        assert torch.equal(logits(emulator, use_cache=use_cache), expected)
    assert not torch.allclose(logits(model), expected, atol=0.1)


@pytest.mark.parametrize("plan", [REMOVED, SHARED], ids=["removed", "shared"])
def test_the_cache_changes_nothing(model: PreTrainedModel, plan: Plan) -> None:
    emulator = with_layout(model, plan)
    full = logits(emulator)
    assert torch.equal(full, logits(emulator, use_cache=False))
    assert torch.equal(generated(emulator, use_cache=True), generated(emulator, use_cache=False))
    ids, cache, steps = token_ids(), None, []
    with torch.no_grad():
        for position in range(ids.shape[1]):
            output = emulator(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=2e-5, rtol=1e-4)


def test_sharing_stores_each_block_once(model: PreTrainedModel) -> None:
    emulator = with_layout(model, SHARED)
    originals = storages(model.parameters())
    blocks = get_blocks(emulator)
    assert len({id(module) for block in blocks for module in block.modules()}) == sum(
        len(list(block.modules())) for block in blocks
    ), "one module object at two depths writes to one cache slot"
    for block, (source, is_tuned) in zip(blocks, SHARED.layout, strict=True):
        if is_tuned:
            assert not storages(block.parameters()) & originals
        else:
            assert storages(block.parameters()) == storages(get_blocks(model)[source].parameters())
    outside = storages(emulator.parameters()) - storages(blocks.parameters())
    assert outside == originals - storages(get_blocks(model).parameters())


def test_only_tuned_blocks_learn_and_copies_do_not_follow(model: PreTrainedModel) -> None:
    emulator = with_layout(model, SHARED)
    emulator(token_ids(), labels=token_ids()).loss.backward()
    for block, (_, is_tuned) in zip(get_blocks(emulator), SHARED.layout, strict=True):
        assert all(parameter.requires_grad == is_tuned for parameter in block.parameters())
        assert all((parameter.grad is not None) == is_tuned for parameter in block.parameters())
        with torch.no_grad():
            for parameter in block.parameters() if is_tuned else ():
                parameter.add_(1.0)
    for block, (source, is_tuned) in zip(get_blocks(emulator), SHARED.layout, strict=True):
        original = get_blocks(model)[source]
        for ours, theirs in zip(block.parameters(), original.parameters(), strict=True):
            assert torch.equal(ours, theirs) != is_tuned


def test_tuned_blocks_learn_even_where_the_source_was_frozen(model: PreTrainedModel) -> None:
    frozen = with_layout(model, SHARED).requires_grad_(False)
    assert all(parameter.requires_grad for parameter in get_blocks(with_layout(frozen, full_plan(6))).parameters())


def test_changing_the_number_format_keeps_ties_and_the_original(model: PreTrainedModel) -> None:
    emulator = with_layout(model, SHARED).to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    by_source: dict[int, set[int]] = {}
    for block, (source, is_tuned) in zip(get_blocks(emulator), SHARED.layout, strict=True):
        if not is_tuned:
            found = storages(block.parameters())
            assert by_source.setdefault(source, found) == found


@pytest.mark.parametrize("plan", [REMOVED, SHARED], ids=["removed", "shared"])
def test_the_context_manager_is_the_emulator_and_restores_exactly(model: PreTrainedModel, plan: Plan) -> None:
    before, expected = fingerprint(model), logits(model)
    emulated = logits(with_layout(model, plan))
    with layout(model, plan) as same:
        assert same is model
        model.config.set_inside = True
        assert torch.equal(logits(model), emulated)
        assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False))
    assert fingerprint(model) == before
    with pytest.raises(KeyError, match="inside"), layout(model, plan):
        raise KeyError("inside")
    assert fingerprint(model) == before
    assert torch.equal(logits(model), expected)


def test_plugging_in_reaches_the_original_positions_and_nothing_else(model: PreTrainedModel) -> None:
    state = {key: value + 0.1 for key, value in tuned_state(with_layout(model, REMOVED), REMOVED).items()}
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for index in TUNED:
            for parameter in get_blocks(expected)[index].parameters():
                parameter.add_(0.1)
    plugged = plug_in(model, state, REMOVED)
    assert torch.equal(logits(plugged), logits(expected))
    assert not torch.equal(logits(plugged), logits(model))
    untouched = [p for i, block in enumerate(get_blocks(plugged)) if i not in TUNED for p in block.parameters()]
    assert storages(untouched) <= storages(model.parameters())


@pytest.mark.parametrize("plan", [REMOVED, EVERYTHING[0]], ids=["removed", "everything"])
def test_a_saved_emulator_loads_without_us(model: PreTrainedModel, plan: Plan, tmp_path: object) -> None:
    emulator = with_layout(model, plan)
    emulator.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(emulator))
    assert torch.equal(generated(loaded, use_cache=True), generated(emulator, use_cache=True))
