"""A full model some of whose blocks are replaced by their harmonizers, others from pass to pass.

The stack runs all its positions with their masks and rotary embeddings; a replaced block returns what its harmonizer
makes of its input. The result is that of the emulator of the kept blocks with these harmonizers.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import forget_lengths
from tasks.core.blocks.locate_blocks import get_blocks, get_stack
from tasks.core.blocks.partial_passes import EndOfPassError, hooked
from tasks.core.harmonizers.harmonizer import Harmonizer

NAME = "harmonizer"


class ReplaceableBlocks:
    """Gives blocks of a model their harmonizers, in place: as submodules, so that they move with their blocks.

    kept: for each block whether it runs itself; it may be changed between passes.
    """

    def __init__(self, model: nn.Module, harmonizers: Mapping[int, Harmonizer]) -> None:
        blocks = get_blocks(model)
        self.kept: Sequence[bool] = [True] * len(blocks)
        self._num_beside = num_returned_beside(model)
        for index, harmonizer in harmonizers.items():
            block = blocks[index]
            block.add_module(NAME, harmonizer)
            # An instance attribute overrides the method of the class and leaves the rest of the block unchanged.
            vars(block)["forward"] = partial(self._forward, block.forward, harmonizer, index)

    def _forward(self, own: Callable[..., Any], harmonizer: Harmonizer, index: int, *args: Any, **kwargs: Any) -> Any:
        if self.kept[index]:
            return own(*args, **kwargs)
        state = harmonizer(args[0] if args else kwargs["hidden_states"])
        return state if self._num_beside is None else (state, *[None] * self._num_beside)


@torch.no_grad()
def num_returned_beside(model: nn.Module) -> int | None:
    """Return how many things the blocks of a model return beside their state, None where they return it alone.

    By a pass of one token through the first block; some families unpack exactly so many (attention weights, which are
    None when nobody asks for them).
    """
    found = list[int | None]()

    def see(_: nn.Module, args: tuple, output: Any) -> None:
        found.append(len(output) - 1 if isinstance(output, tuple | list) else None)
        raise EndOfPassError

    ids = torch.ones(1, 1, dtype=torch.long, device=input_device(model))
    forget_lengths(model)
    with hooked([get_blocks(model)[0].register_forward_hook(see)]), suppress(EndOfPassError):
        get_stack(model)(input_ids=ids, use_cache=False)
    return found[0]
