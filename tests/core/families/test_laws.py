"""Each law is broken by a model that computes what it must not."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.families.laws import LAWS
from tasks.core.families.trial import random_model, try_model
from tests.core.tiny_models import FAMILIES


def llama() -> Any:
    """A model that keeps every law."""
    config = FAMILIES["llama"]()
    config.num_hidden_layers = 4
    return random_model(config)


def mix_rows(model: Any) -> None:
    """A block adds the mean over the rows of its batch."""
    module = get_blocks(model)[1].mlp
    plain = module.forward
    module.forward = lambda state: plain(state) + state.mean(0, keepdim=True)


def see_the_next_token(model: Any) -> None:
    """The stack's output depends on tokens that follow."""
    plain = model.model.norm.forward
    model.model.norm.forward = lambda state: plain(state + state.flip(1))


def change_weights(model: Any) -> None:
    """A block divides a weight in place when it first runs, as RWKV's do."""

    def halve(self: nn.Module, state: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.down_proj.weight.div_(1 if getattr(self, "was_halved", False) else 2)
        self.was_halved = True
        return type(self).forward(self, state)

    for block in get_blocks(model):
        block.mlp.forward = MethodType(halve, block.mlp)


def know_the_depth(model: Any) -> None:
    """Attention depends on the position at which its block stands."""
    for block in get_blocks(model):
        block.self_attn.register_forward_hook(lambda module, _, out: (out[0] * (1 + module.layer_idx), *out[1:]))


def read_another_state(model: Any) -> None:
    """The head adds what the embeddings were."""
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda _, __, out: seen.append(out))
    model.model.norm.register_forward_hook(lambda _, __, out: out + seen[-1] if out.shape == seen[-1].shape else out)


def forget_the_cache(model: Any) -> None:
    """A pass that goes on from a cache sees other tokens than those it is given."""

    def shift(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        cache = kwargs.get("past_key_values")
        ids = kwargs["input_ids"]
        return args, kwargs | ({"input_ids": 63 - ids} if cache is not None and cache.get_seq_length() else {})

    model.model.register_forward_pre_hook(shift, with_kwargs=True)


def scale_what_is_added(model: Any) -> None:
    """A block multiplies what its last linear module has added, so that a map behind this is not a map of weights."""
    for block in get_blocks(model):
        block.mlp.register_forward_hook(lambda _, __, out: out * 1.5)


BREAKS: dict[Callable[[Any], None], set[str]] = {
    mix_rows: {"capture", "scoring", "tuning"},
    see_the_next_token: {"scoring"},
    change_weights: {"capture", "scoring", "sharing", "tuning", "lens"},
    know_the_depth: {"surgery"},
    read_another_state: {"lens"},
    forget_the_cache: {"cache", "generation"},
    scale_what_is_added: {"stand_ins"},
}


def test_a_model_that_is_right_keeps_every_law() -> None:
    assert try_model(llama()).failed == {}
    first = ["capture", "scoring", "surgery", "cache", "sharing"]
    assert list(LAWS) == [*first, "stand_ins", "tuning", "lens", "generation"]


@pytest.mark.parametrize("sabotage", BREAKS, ids=lambda sabotage: sabotage.__name__)
def test_what_is_wrong_is_found(sabotage: Callable[[Any], None]) -> None:
    model = llama()
    sabotage(model)
    assert try_model(model).failed.keys() >= BREAKS[sabotage]
