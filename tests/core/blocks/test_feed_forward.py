"""Channels of feed-forward parts: found in every family whose weights are linear modules, removed without a trace."""

import copy

import pytest
import torch

from tasks.core.blocks.factored import linear_shapes, put_narrow
from tasks.core.blocks.feed_forward import feed_forward_channels, require_channels
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.errors import InputError
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

# Gate and up-projection of Phi-3 are one matrix.
WITHOUT = {"phi3"}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITHOUT))
def test_removed_channels_are_zeros_in_front_of_the_last_matrix(family: str) -> None:
    model = tiny_model(family)
    found = feed_forward_channels(model, range(NUM_BLOCKS))
    require_channels(model.config)
    assert feed_forward_channels(model, [3]) == {3: found[3]}
    narrow, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    for index, channels in found.items():
        kept = torch.arange(0, channels.num_channels, 3)
        block, shapes = get_blocks(narrow)[index], linear_shapes(get_blocks(model)[index])
        for path in channels.paths:
            module, is_out = get_blocks(model)[index].get_submodule(path), path == channels.out
            axis = int(shapes[path].is_transposed != is_out)
            bias = getattr(module, "bias", None)
            bias = None if bias is None else bias if is_out else bias[kept]
            put_narrow(block, path, module.weight.index_select(axis, kept), bias)
        out = get_blocks(zeroed)[index].get_submodule(channels.out)
        removed = [each for each in range(channels.num_channels) if each % 3]
        with torch.no_grad():
            out.weight.index_fill_(int(not shapes[channels.out].is_transposed), torch.tensor(removed), 0)
    with torch.no_grad():
        expected = zeroed(token_ids(), use_cache=False).logits
        assert torch.allclose(narrow(token_ids(), use_cache=False).logits, expected, atol=1e-4)
        assert not torch.allclose(model(token_ids(), use_cache=False).logits, expected, atol=1e-2)


@pytest.mark.parametrize("family", ["phi3", "mixtral", "deepseek_v3", "glm4_moe"])
def test_a_family_without_such_channels_is_refused_by_name(family: str) -> None:
    model = tiny_model(family)
    for refuse in (lambda: feed_forward_channels(model, range(NUM_BLOCKS)), lambda: require_channels(model.config)):
        with pytest.raises(InputError, match=rf"{family}: model.layers.\d has no feed-forward part.*compress.method"):
            refuse()


def test_modules_of_fitting_shapes_that_are_not_around_channels_are_refused() -> None:
    model = tiny_model("llama")
    # A norm between the matrices mixes the channels.
    for block in get_blocks(model):
        block.mlp.act_fn = torch.nn.Softmax(dim=-1)
    with pytest.raises(InputError, match="no feed-forward part"):
        feed_forward_channels(model, [0])
