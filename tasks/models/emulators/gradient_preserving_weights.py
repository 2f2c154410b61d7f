"""GradOT's weights of frozen blocks: fewer channels in feed-forward parts, and two factors for other linear weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tasks.core.compression.settings import Compression, channels_within, rank_within
from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames, InBlock
from tasks.models.emulators.changed_weights import Tally, in_factors
from tasks.models.tensor_files import StoredTensor, TensorSource
from tasks.models.tensor_sources import FLOATS, ComputedTensor, read_stored

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.blocks.factored import LinearShape
    from tasks.core.blocks.feed_forward import Channels
    from tasks.core.gradot.choosing import Linear, Observed


class Sensitivities(NamedTuple):
    """Evidence for GradOT: the channels of each frozen block, and the tokens in its linear modules, by path.

    Blocks have their numbers in the full model.
    """

    channels: "Mapping[int, Channels]"
    observed: "Mapping[tuple[int, str], Observed]"


@dataclass
class GradientPreserving:
    """Makes the tensors that are written in the place of one of a frozen block.

    names, stored: of the emulator's folder; kept: blocks of the full model, in the order of the folder; shapes: of the
    linear modules of each.
    """

    how: Compression
    tally: Tally
    stored: Mapping[str, StoredTensor]
    names: BlockNames
    kept: Sequence[int]
    shapes: "Sequence[Mapping[str, LinearShape]]"
    seen: Sensitivities
    _chosen: "dict[int, Tensor]" = field(default_factory=dict)

    def __call__(self, name: str, tensor: StoredTensor, place: InBlock) -> list[tuple[str, TensorSource]]:
        """Return the changed tensors with their names; a tensor of no linear module stays as it is.

        Raises:
            InputError: when the weights around the channels are not stored one by one.
        """
        path, _, kind = place.rest.rpartition(".")
        shape, channels = self.shapes[place.block].get(path), self._channels(place.block)
        if shape is None or tensor.dtype not in FLOATS:
            return [(name, tensor)]
        if path in channels.paths:
            return [(name, self._narrow(tensor, place.block, path, kind))]
        if kind != "weight":
            return [(name, tensor)]
        from tasks.core.gradot.choosing import best_factors

        assert self.how.rank is not None
        rank = rank_within(self.how.rank, shape.num_in, shape.num_out)
        weighing = self.how.loss_weight

        def decompose(weight: "Tensor") -> "tuple[Tensor, Tensor]":
            return best_factors(self._linear(place.block, path, weight), rank, weighing)

        return in_factors(name, tensor, shape, rank, decompose, self.tally)

    def _narrow(self, tensor: StoredTensor, block: int, path: str, kind: str) -> TensorSource:
        """Return a weight or bias with the kept channels only; the bias behind them stays."""
        channels, is_transposed = self._channels(block), self.shapes[block][path].is_transposed
        if path == channels.out and kind == "bias":
            return tensor
        axis = 0 if kind == "bias" else int(is_transposed != (path == channels.out))
        count = self._count(block)
        shape = (*tensor.shape[:axis], count, *tensor.shape[axis + 1 :])
        if kind == "weight" and path == channels.out:
            self.tally.num_channels += count

        def compute() -> "Tensor":
            whole, kept = read_stored(tensor), self._kept_channels(block)
            if kind == "weight":
                removed = whole.clone().index_fill_(axis, kept, 0)
                self.tally.errors.append(float(removed.float().norm() / whole.float().norm().clamp_min(1e-30)))
            return whole.index_select(axis, kept).contiguous()

        return ComputedTensor(tensor.dtype, shape, compute)

    def _channels(self, block: int) -> "Channels":
        return self.seen.channels[self.kept[block]]

    def _count(self, block: int) -> int:
        assert self.how.channels is not None
        return channels_within(self.how.channels, self._channels(block).num_channels)

    def _kept_channels(self, block: int) -> "Tensor":
        """Choose the channels of a block, once; the tensors of one block are written one after the other."""
        if block not in self._chosen:
            from tasks.core.gradot.choosing import kept_channels

            channels = self._channels(block)
            into, out = [self._linear(block, path) for path in channels.into], self._linear(block, channels.out)
            self._chosen[block] = kept_channels(into, out, self._count(block), self.how.loss_weight)
        return self._chosen[block]

    def _linear(self, block: int, path: str, weight: "Tensor | None" = None) -> "Linear":
        """Return a linear module. weight: [out, in], where it is read already."""
        from tasks.core.gradot.choosing import Linear

        if weight is None:
            name = self.names.name(block, f"{path}.weight")
            if name not in self.stored:
                raise InputError(
                    f"{name} is not among the stored tensors, so that its channels cannot be removed: choose another"
                    " compress.method"
                )
            weight = read_stored(self.stored[name])
            weight = weight.T if self.shapes[block][path].is_transposed else weight
        bias = self.stored.get(self.names.name(block, f"{path}.bias"))
        return Linear(weight, read_stored(bias) if bias else None, self.seen.observed[self.kept[block], path])
