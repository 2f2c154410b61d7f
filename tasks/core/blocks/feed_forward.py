"""The channels inside a block's feed-forward part, and the linear modules on both sides of them.

Shapes: B rows, T tokens, d width of the model, m channels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.factored import linear_shapes
from tasks.core.blocks.locate_blocks import find_blocks, get_blocks, skeleton, text_config
from tasks.core.blocks.partial_passes import capture_blocks
from tasks.core.errors import InputError

PROBE_TOKENS = 4
TOLERANCE = 1e-2


class Channels(NamedTuple):
    """The linear modules around the channels, by path within the block.

    into: modules [m, d] whose outputs become the channels, one or (gated) two; out: the module [d, m] that reads them;
    num_channels: m.
    """

    into: tuple[str, ...]
    out: str
    num_channels: int

    @property
    def paths(self) -> tuple[str, ...]:
        """All of these modules."""
        return (*self.into, self.out)


def feed_forward_channels(model: nn.Module) -> list[Channels]:
    """Return the channels of every block, found by the shapes of its linear modules and confirmed by running them.

    Where the outputs of `into` are zero for half of the channels, the block's output has to be the one with zeros in
    the inputs of `out`.

    Raises:
        InputError: names the block and the family without such channels, as where experts are chosen by a router.
    """
    width = text_config(model.config).hidden_size
    found = []
    for index, block in enumerate(get_blocks(model)):
        chosen = next((each for each in _candidates(block, width) if _are_channels(model, block, index, each)), None)
        if chosen is None:
            raise _none(model, index)
        found.append(chosen)
    return found


def require_channels(config: PreTrainedConfig) -> None:
    """Check by shapes alone that the blocks of the model that a config describes have such channels.

    Raises:
        InputError: as `feed_forward_channels`.
    """
    model = skeleton(config)
    for index, block in enumerate(get_blocks(model)):
        if not _candidates(block, text_config(config).hidden_size):
            raise _none(model, index)


def _none(model: nn.Module, index: int) -> InputError:
    family = text_config(model.config).model_type
    return InputError(
        f"{family}: {find_blocks(model)[0]}.{index} has no feed-forward part whose channels lie between linear modules"
        ' of their own, so that none can be removed: choose another compress.method than "gradot"'
    )


def _candidates(block: nn.Module, width: int) -> list[Channels]:
    """Return what the shapes of a block's linear modules allow, the most channels first.

    Attention has more than two matrices in front of its last one, or some that lead to fewer heads.
    """
    shapes = linear_shapes(block)
    found = []
    for out, shape in shapes.items():
        parent = out.rpartition(".")[0]
        beside = tuple(path for path in shapes if path != out and path.rpartition(".")[0] == parent)
        lead_in = all((shapes[path].num_in, shapes[path].num_out) == (width, shape.num_in) for path in beside)
        if shape.num_out == width and len(beside) in (1, 2) and lead_in:
            found.append(Channels(beside, out, shape.num_in))
    return sorted(found, key=lambda each: -each.num_channels)


@torch.inference_mode()
def _are_channels(model: nn.Module, block: nn.Module, index: int, channels: Channels) -> bool:
    ids = torch.arange(1, PROBE_TOKENS + 1, device=input_device(model))[None]
    half = torch.arange(channels.num_channels) % 2 == 0

    def without(states: Tensor) -> Tensor:
        return states.masked_fill(half.to(states.device), 0.0)

    def outputs(handles: list[Any]) -> Tensor:
        try:
            with capture_blocks(model, last=index) as run:
                return run(ids)[-1].float()
        finally:
            for handle in handles:
                handle.remove()

    plain = outputs([])
    into, out = [block.get_submodule(path) for path in channels.into], block.get_submodule(channels.out)
    ahead = outputs([each.register_forward_hook(lambda _, args, output: without(output)) for each in into])
    behind = outputs([out.register_forward_pre_hook(lambda _, args: (without(args[0]),))])
    return bool((ahead - behind).norm() <= TOLERANCE * (behind - plain).norm())
