"""Bottleneck adapters: a small residual network behind a block.

h + U relu(D h), with U zero at the start, so that an untrained one changes no bit. Houlsby et al. 2019 put one behind
the attention and one behind the MLP, Pfeiffer et al. 2020 found the one behind the MLP to do; the block's output is
that place, and the only one that is the same in every family.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "adapter"
# The standard deviation of Houlsby et al., section 3.
INITIAL_STD = 0.01


class Adapter(nn.Module):
    """[..., width] -> [..., width] through `size` units."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=INITIAL_STD)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, hidden: Tensor) -> Tensor:
        """The block's output with the adapter's added, in the block's number format."""
        change = self.up(torch.relu(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + change.to(hidden.dtype)


def adapter_shapes(width: int, size: int) -> dict[str, tuple[int, ...]]:
    """Name to shape of an adapter's tensors, as in the block that has it."""
    shapes: dict[str, tuple[int, ...]] = {"down.weight": (size, width), "down.bias": (size,)}
    shapes |= {"up.weight": (width, size), "up.bias": (width,)}
    return {f"{NAME}.{name}": shape for name, shape in shapes.items()}


def insert_adapter(block: nn.Module, width: int, size: int) -> None:
    """Put an adapter behind a block, in place: a part of the block, in float32, where the block is."""
    adapter = Adapter(width, size).train(block.training)
    block.add_module(NAME, adapter.to(next(block.parameters()).device))
    # A hook, not a module around the block: a family's stack reads attributes of its blocks.
    block.register_forward_hook(_adapted)


def live_adapter(block: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors of the adapter that was inserted."""
    return {f"{NAME}.{name}": parameter for name, parameter in block.get_submodule(NAME).named_parameters()}


def _adapted(block: nn.Module, _: Any, output: Any) -> Any:
    if isinstance(output, tuple | list):
        return (block.get_submodule(NAME)(output[0]), *output[1:])
    return block.get_submodule(NAME)(output)
