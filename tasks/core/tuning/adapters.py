"""Bottleneck adapters: a small residual network behind a block.

h + U relu(D h), with U zero at the start, so that an untrained adapter changes no bit. Houlsby et al. 2019 put one
adapter behind the attention and one behind the MLP; Pfeiffer et al. 2020 found that the one behind the MLP suffices.
That position is the block's output, the only position that is the same in every family.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "adapter"
# Standard deviation from Houlsby et al., section 3.
INITIAL_STD = 0.01


class Adapter(nn.Module):
    """Bottleneck of `size` units: [..., width] -> [..., width]."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=INITIAL_STD)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the adapter's output to the block's output, in the block's data type."""
        change = self.up(torch.relu(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + change.to(hidden.dtype)


def adapter_shapes(width: int, size: int) -> dict[str, tuple[int, ...]]:
    """Map the names of an adapter's tensors within its block to their shapes."""
    shapes: dict[str, tuple[int, ...]] = {"down.weight": (size, width), "down.bias": (size,)}
    shapes |= {"up.weight": (width, size), "up.bias": (width,)}
    return {f"{NAME}.{name}": shape for name, shape in shapes.items()}


def insert_adapter(block: nn.Module, width: int, size: int) -> None:
    """Add an adapter to the output of a block, in place: as a submodule in float32, on the block's device."""
    adapter = Adapter(width, size).train(block.training)
    block.add_module(NAME, adapter.to(next(block.parameters()).device))
    # A hook instead of a wrapper module, because a family's stack reads attributes of its blocks. It runs before
    # others, such as that of harmonizers, which stand in for the blocks behind this one.
    block.register_forward_hook(_adapted, prepend=True)


def live_adapter(block: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the inserted adapter, by name within the block."""
    return {f"{NAME}.{name}": parameter for name, parameter in block.get_submodule(NAME).named_parameters()}


def _adapted(block: nn.Module, _: Any, output: Any) -> Any:
    if isinstance(output, tuple | list):
        return (block.get_submodule(NAME)(output[0]), *output[1:])
    return block.get_submodule(NAME)(output)
