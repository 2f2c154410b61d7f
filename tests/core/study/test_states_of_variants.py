"""Blocks alone and blocks that are left, against plain forward passes of a model that is cut by hand."""

import copy

import pytest
import torch
from torch import nn

from tasks.core.batching import Example
from tasks.core.blocks.surgery import get_blocks
from tasks.core.capturing import capture_states
from tasks.core.cka import ESTIMATORS, linear_cka
from tasks.core.errors import InputError
from tasks.core.study.states_of_variants import drop_blocks, states_alone
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, tiny_model

ROWS = 6


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (4 + row,), generator=generator).tolist() for row in range(ROWS)]
    return [Example(tuple(row[:-1]), tuple(row[-1:]), number) for number, row in enumerate(rows, 1)]


def cut(model: nn.Module, left: list[int]) -> nn.Module:
    """A copy of a LLaMA with these of its blocks, by its own means."""
    short = copy.deepcopy(model)
    short.model.layers = nn.ModuleList(short.model.layers[block] for block in left)
    for position, block in enumerate(short.model.layers):
        block.self_attn.layer_idx = position
    short.config.num_hidden_layers = len(left)
    return short


@torch.no_grad()
def last_tokens(model: nn.Module) -> torch.Tensor:
    """[blocks + 1, n, d] the raw states of each row's last token, by hooks."""
    seen: list[torch.Tensor] = []
    layers = model.model.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))]
    hooks += [
        layer.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1]))
        for layer in layers
    ]
    for row in examples():
        model(torch.tensor([[*row.prompt_ids, *row.answer_ids]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen).unflatten(0, (ROWS, len(layers) + 1)).transpose(0, 1)


def test_each_block_sees_nothing_but_the_embeddings() -> None:
    model = tiny_model("llama")
    states = states_alone(model, examples(), device="cpu", max_tokens=20)
    assert states.last.shape[0] == states.pooled.shape[0] == NUM_BLOCKS + 1
    torch.testing.assert_close(states.last[0], last_tokens(model)[0])
    for block in range(NUM_BLOCKS):
        torch.testing.assert_close(states.last[block + 1], last_tokens(cut(model, [block]))[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_block_alone_is_the_first_block(family: str) -> None:
    model = tiny_model(family)
    alone = states_alone(model, examples(), device="cpu")
    whole = capture_states(model, examples())
    torch.testing.assert_close(alone.pooled[:2], whole.pooled[:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.block_influence[0], whole.block_influence[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone.pooled[2], whole.pooled[2], atol=1e-2)
    assert alone.num_tokens == whole.num_tokens


def literal_drop(model: nn.Module, num_kept: int) -> list[int]:
    """Take out the block above the most alike boundary, from models that are really cut."""
    left, dropped = list(range(NUM_BLOCKS)), []
    while len(left) > num_kept:
        states = last_tokens(cut(model, left))[1:]
        adjacent = linear_cka(states).diagonal(1)
        dropped.append(left.pop(int(adjacent.argmax()) + 1))
    return dropped


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_are_dropped_by_the_states_of_what_is_left(seed: int) -> None:
    model = tiny_model("llama", seed)
    dropped = drop_blocks(model, examples(), 2, estimator="linear_cka", device="cpu", pooling="last")
    assert dropped == literal_drop(model, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_as_it_was(family: str) -> None:
    model = tiny_model(family)
    before = [(name, id(module)) for name, module in model.named_modules()]
    values = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.named_parameters()}
    config = model.config.to_json_string(use_diff=False)
    dropped = drop_blocks(model, examples(), 3, estimator="debiased_cka", device="cpu")
    assert len(dropped) == 3
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert model.config.to_json_string(use_diff=False) == config
    for name, tensor in model.named_parameters():
        assert tensor.data_ptr() == values[name][0]
        assert torch.equal(tensor, values[name][1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_protected_blocks_stay(estimator: str) -> None:
    model = tiny_model("gpt2")
    dropped = drop_blocks(model, examples(), 3, estimator=estimator, protected=(4, 5), device="cpu")
    assert sorted(dropped) == [1, 2, 3]


@torch.no_grad()
def test_a_broken_block_is_named_by_its_place_in_the_model() -> None:
    model = tiny_model("llama")
    next(get_blocks(model)[4].parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="output of block 4 holds NaN"):
        states_alone(model, examples(), device="cpu")
