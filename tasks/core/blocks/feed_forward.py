"""The channels inside a block's feed-forward part, and the linear modules on both sides of them.

Shapes: B rows, T tokens, d width of the model, m channels.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.factored import LinearShape, linear_shapes, shapes_by_block
from tasks.core.blocks.locate_blocks import find_blocks, get_blocks, skeleton, text_config
from tasks.core.blocks.partial_passes import capture_blocks, hooked
from tasks.core.compression.settings import Compression
from tasks.core.errors import InputError

PROBE_TOKENS = 4
TOLERANCE = 1e-2
# How an error ends.
REMOVED = 'so that none can be removed: choose another compress.method than "gradot"'
TOLD_APART = 'from which the attention could be told apart: choose compress.parts = "all"'


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


def feed_forward_channels(model: nn.Module, positions: Iterable[int]) -> dict[int, Channels]:
    """Return the channels of these blocks, found by the shapes of linear modules and confirmed by running them.

    Where the outputs of `into` are zero for half of the channels, the block's output has to be the one with zeros in
    the inputs of `out`.

    Raises:
        InputError: names the block and the family without such channels, as where experts are chosen by a router.
    """
    width = text_config(model.config).hidden_size
    found, blocks = {}, get_blocks(model)
    for index in positions:
        candidates = channel_candidates(blocks[index], width)
        chosen = next((each for each in candidates if _are_channels(model, blocks[index], index, each)), None)
        if chosen is None:
            raise _none(model, index)
        found[index] = chosen
    return found


def require_channels(config: PreTrainedConfig) -> None:
    """Check by shapes alone that the blocks of the model that a config describes have such channels.

    Raises:
        InputError: as `feed_forward_channels`.
    """
    _ = _candidates(config, REMOVED)


def factorised_shapes(config: PreTrainedConfig, how: Compression) -> list[dict[str, LinearShape]]:
    """Return the shapes of the linear modules that a low-rank compression factorises, by block and path.

    Raises:
        InputError: when only those of the attention are to be, and the family's feed-forward part cannot be told from
            it by shapes.
    """
    shapes = shapes_by_block(config)
    if how.method != "low_rank" or how.parts == "all":
        return shapes
    found = _candidates(config, TOLD_APART)
    return [
        {path: shape for path, shape in block.items() if path not in channels.paths}
        for block, channels in zip(shapes, found, strict=True)
    ]


def _candidates(config: PreTrainedConfig, so: str) -> list[Channels]:
    """Return the most likely channels of every block by shapes alone. so: the end of the error where there are none."""
    model, found = skeleton(config), list[Channels]()
    for index, block in enumerate(get_blocks(model)):
        candidates = channel_candidates(block, text_config(config).hidden_size)
        if not candidates:
            raise _none(model, index, so)
        found.append(candidates[0])
    return found


def _none(model: nn.Module, index: int, so: str = REMOVED) -> InputError:
    family = text_config(model.config).model_type
    return InputError(
        f"{family}: {find_blocks(model)[0]}.{index} has no feed-forward part whose channels lie between separate"
        f" linear modules, {so}"
    )


def channel_candidates(block: nn.Module, width: int) -> list[Channels]:
    """Return the candidates that the shapes of a block's linear modules allow, the most channels first.

    Attention has more than two matrices in front of its last one, or some that lead to fewer heads. Of a mixture of
    experts only shared ones could be linear modules, which are the smaller part: it has no candidates.
    """
    if any("experts" in name for name, _ in block.named_parameters()):
        return []
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
        with hooked(handles), capture_blocks(model, last=index) as run:
            return run(ids)[-1].float()

    plain = outputs([])
    into, out = [block.get_submodule(path) for path in channels.into], block.get_submodule(channels.out)
    ahead = outputs([each.register_forward_hook(lambda _, args, output: without(output)) for each in into])
    behind = outputs([out.register_forward_pre_hook(lambda _, args: (without(args[0]),))])
    return bool((ahead - behind).norm() <= TOLERANCE * (behind - plain).norm())
