"""Harmonizers of every family: in the emulator, and in the full model some of whose blocks they replace."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from tasks.core.batching import Example, collate
from tasks.core.blocks.locate_blocks import text_config
from tasks.core.blocks.soft_prompt import insert_prompt
from tasks.core.blocks.surgery import aliased, get_blocks, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.harmonizers.harmonizer import Harmonizer, add_harmonizers, new_harmonizer
from tasks.core.harmonizers.replacing import ReplaceableBlocks, num_returned_beside
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.adapters import insert_adapter
from tasks.core.tuning.losses import AnswerLoss
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, WIDTH, cached_logits, tiny_model, token_ids

# Removed: in front of all kept blocks, behind a tuned and behind a frozen one, and behind all.
PLAN = fixed_plan(NUM_BLOCKS, (1, 3), (1,), share="harmonizers")
REMOVED = (0, 2, 4, 5)
RANK = 4


def harmonizers(*blocks: int, width: int = WIDTH) -> dict[int, Harmonizer]:
    """Random ones, which change a state as much as it is large."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for block in blocks:
        made[block] = new_harmonizer(width, RANK, generator)
        made[block].up.data = torch.randn(width, RANK, generator=generator)
    return made


def harmonized(model: PreTrainedModel, *blocks: int) -> PreTrainedModel:
    emulator = with_layout(model, PLAN)
    add_harmonizers(emulator, PLAN, harmonizers(*blocks))
    return emulator


def test_by_hand() -> None:
    down, up = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [10.0]])
    found = Harmonizer(down, up)(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    assert found.tolist() == [[7.0, 21.0], [1.0, 3.0]]


def test_a_new_one_is_the_identity_to_the_bit() -> None:
    made = new_harmonizer(WIDTH, RANK, torch.Generator().manual_seed(0))
    state = torch.randn(2, 5, WIDTH)
    for narrow in (state, state.bfloat16()):
        assert torch.equal(made(narrow), narrow)
    assert (made.down.shape, made.up.shape) == ((RANK, WIDTH), (WIDTH, RANK))
    assert float(made.down.detach().std()) == pytest.approx(WIDTH**-0.5, rel=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_model_with_replaced_blocks_is_the_emulator(family: str) -> None:
    model = tiny_model(family)
    emulator, replaced = harmonized(model, *REMOVED), aliased(model)
    blocks = ReplaceableBlocks(replaced, harmonizers(*REMOVED))
    whole = cached_logits(model)
    ids = token_ids()
    with torch.no_grad():
        assert torch.equal(replaced(ids, use_cache=False).logits, whole), "all blocks run themselves"
        blocks.kept = [block in PLAN.kept for block in range(NUM_BLOCKS)]
        found = replaced(ids, use_cache=False).logits
        assert torch.equal(found, cached_logits(emulator))
        assert not torch.allclose(found, with_layout(model, PLAN)(ids).logits, atol=1e-3)
        blocks.kept = [True] * NUM_BLOCKS
        assert torch.equal(replaced(ids, use_cache=False).logits, whole)
    assert torch.equal(cached_logits(model), whole), "the model itself is as before"


# Blocks that return more than their state, state spaces beside attention, mixtures of experts.
@pytest.mark.parametrize("family", ["bamba", "jamba", "falcon_h1", "mixtral", "mamba2", "qwen3_next", "gpt_oss"])
def test_in_further_families_too(family: str) -> None:
    model = tiny_model(family)
    num_blocks, width = len(get_blocks(model)), text_config(model.config).hidden_size
    removed = [*range(0, num_blocks, 2)]
    plan = fixed_plan(num_blocks, [*range(1, num_blocks, 2)], [1], share="harmonizers")
    emulator, replaced, ids = with_layout(model, plan), aliased(model), token_ids()
    add_harmonizers(emulator, plan, harmonizers(*removed, width=width))
    blocks = ReplaceableBlocks(replaced, harmonizers(*removed, width=width))
    blocks.kept = [block in plan.kept for block in range(num_blocks)]
    with torch.no_grad():
        found, expected = (each(ids, use_cache=False).logits for each in (replaced, emulator))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_ones_change_no_bit_and_some_may_be_missing(family: str) -> None:
    model = tiny_model(family)
    emulator, generator = with_layout(model, PLAN), torch.Generator().manual_seed(0)
    add_harmonizers(emulator, PLAN, {block: new_harmonizer(WIDTH, RANK, generator) for block in (0, 5)})
    assert torch.equal(cached_logits(emulator), cached_logits(with_layout(model, PLAN)))
    each = [cached_logits(harmonized(model, block)) for block in REMOVED]
    every = cached_logits(harmonized(model, *REMOVED))
    assert not any(torch.allclose(found, every, atol=1e-3) for found in each)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_blocks_have_no_part_of_them(family: str) -> None:
    model = tiny_model(family)
    emulator, plain = harmonized(model, *REMOVED), with_layout(model, PLAN)
    assert len(get_blocks(emulator)) == len(PLAN.kept)
    names = [name for name, _ in get_blocks(emulator).named_parameters()]
    assert names == [name for name, _ in get_blocks(plain).named_parameters()]
    assert tuned_state(emulator, PLAN).keys() == tuned_state(plain, PLAN).keys()
    own = {name: each for name, each in emulator.named_parameters() if name.startswith("harmonizers.")}
    assert sum(each.numel() for each in own.values()) == len(REMOVED) * 2 * RANK * WIDTH
    assert not any(each.requires_grad for each in own.values())


def test_gradients_pass_through_them_to_the_tuned_blocks() -> None:
    emulator = harmonized(tiny_model("llama"), *REMOVED)
    emulator(token_ids(), labels=token_ids()).loss.backward()
    gradients = {name for name, each in emulator.named_parameters() if each.grad is not None}
    assert gradients == {name for name, _ in emulator.named_parameters() if name.startswith("model.layers.0.")}


def test_number_formats_copies_and_other_parts_beside_them() -> None:
    model = tiny_model("llama")
    narrow = harmonized(model.to(torch.bfloat16), *REMOVED)
    assert {each.dtype for each in narrow.parameters()} == {torch.bfloat16}
    assert torch.equal(cached_logits(copy.deepcopy(narrow)), cached_logits(narrow))
    emulator = harmonized(tiny_model("llama"), *REMOVED)
    whole = cached_logits(emulator)
    twin = copy.deepcopy(emulator)
    next(iter(emulator.harmonizers.parameters())).data.zero_()
    assert torch.equal(cached_logits(twin), whole), "a copy has hooks of its tensors"
    insert_prompt(twin, 2)
    batch = collate([Example((3, 4, 5), (6, 7))], 0)
    with torch.no_grad():
        plainly = AnswerLoss(harmonized(tiny_model("llama"), *REMOVED))(batch)[0]
        assert torch.equal(AnswerLoss(twin)(batch)[0], plainly), "a soft prompt beside them"


def test_an_adapter_runs_behind_its_block_and_before_the_harmonizers() -> None:
    """As in the full model, in which the blocks behind it follow the adapter."""
    emulator = harmonized(tiny_model("llama"), 2)
    first, seen = get_blocks(emulator)[0], list[torch.Tensor]()
    insert_adapter(first, WIDTH, 3)
    first.adapter.up.bias.data.fill_(5.0)
    emulator.harmonizers["1"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    plain = with_layout(tiny_model("llama"), PLAN)
    get_blocks(plain)[0].register_forward_hook(lambda _, args, output: seen.append(output))
    with torch.no_grad():
        emulator(token_ids())
        plain(token_ids())
    torch.testing.assert_close(seen[0], seen[1] + 5.0)


@pytest.mark.parametrize(("family", "expected"), [("bamba", 1), ("llama", None)])
def test_what_blocks_return_beside_their_state(family: str, expected: int | None) -> None:
    assert num_returned_beside(tiny_model(family)) == expected


def test_a_model_of_another_plan_is_refused() -> None:
    with pytest.raises(InputError, match="not an emulator of the plan: 6 blocks, the plan lays out 2"):
        add_harmonizers(tiny_model("llama"), PLAN, harmonizers(0))
