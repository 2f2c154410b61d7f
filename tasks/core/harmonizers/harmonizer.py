"""Harmonizers: small residual networks in the place of removed blocks (ScaleOT, arXiv 2412.09812).

In an emulator they run behind the kept block in front of the removed ones, as hooks, and belong to the model and not to
that block: what a data owner tunes and returns has no part of them.
Shapes: d width, r rank.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.surgery import emulator_blocks
from tasks.core.plan.layout import Plan

# The attribute under which an emulator has its harmonizers.
MODULE = "harmonizers"


class Harmonizer(nn.Module):
    """x + up relu(down x): [..., d] -> [..., d]. down: [r, d]; up: [d, r]."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        # Not linear modules, which would be found where those of blocks are looked for.
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, state: Tensor) -> Tensor:
        """Add the network's output to a state, in the state's data type."""
        inside = torch.relu(nn.functional.linear(state.to(self.down), self.down))
        return state + nn.functional.linear(inside, self.up).to(state)


def new_harmonizer(width: int, rank: int, generator: torch.Generator) -> Harmonizer:
    """Make a harmonizer that is the identity: `up` is zero, `down` is drawn with standard deviation d^-1/2; float32."""
    down = torch.randn(rank, width, generator=generator) / width**0.5
    return Harmonizer(down, torch.zeros(width, rank))


class Chain(nn.Sequential):
    """The harmonizers of neighbouring removed blocks, one after another; its methods are hooks of a kept block."""

    def behind(self, _: nn.Module, args: tuple, output: Any) -> Any:
        """Run behind the block."""
        if isinstance(output, tuple | list):
            return (self(output[0]), *output[1:])
        return self(output)

    def before(self, _: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Run in front of the block."""
        if args:
            return (self(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self(kwargs["hidden_states"])}


@torch.no_grad()
def add_harmonizers(emulator: nn.Module, plan: Plan, harmonizers: Mapping[int, Harmonizer]) -> None:
    """Run harmonizers where the removed blocks were, in place, in the data type and on the device of the blocks.

    harmonizers: by the removed block. They are frozen.

    Raises:
        InputError: when the model is not an emulator of the plan.
    """
    blocks = emulator_blocks(emulator, plan)
    like = next(parameter for parameter in blocks.parameters() if parameter.dim() > 1)
    chains = nn.ModuleDict()
    for front, last in plan.removed_runs:
        run = [harmonizers[block] for block in range(front + 1, last + 1) if block in harmonizers]
        if not run:
            continue
        chain = Chain(*run).requires_grad_(False).to(like)
        chains[str(front)] = chain
        if front < 0:
            blocks[0].register_forward_pre_hook(chain.before, with_kwargs=True)
        else:
            blocks[plan.kept.index(front)].register_forward_hook(chain.behind)
    emulator.add_module(MODULE, chains)
