"""Properties of a plan, and of the tuning of its emulator, on which costs depend."""

from dataclasses import dataclass
from functools import cache

from tasks.core.compression.settings import channels_within, is_worth_two, rank_within
from tasks.core.costs.block_shapes import BlockShape
from tasks.core.costs.shapes import Shape
from tasks.core.plan.layout import Plan
from tasks.core.tuning.distilling import segments


@dataclass(frozen=True)
class Depth:
    """The blocks that run, and which of them are tuned.

    layout: for each position, its block in the full model and whether a data owner trains it there; lowest,
    lowest_frozen: position of the lowest tuned and of the lowest frozen block; taught: number of the full model's
    blocks that run when it is the teacher, None for all; rank: rank of the frozen blocks' factored matrices, a number
    or a share of the full rank, None when they are not factored; channels: share of the channels that the frozen
    blocks' feed-forward parts keep, whose matrices are not factored then; attention_only: whether the matrices of
    feed-forward parts stay whole; harmonizers: number of networks of rank harmonizer_rank beside the blocks.
    """

    layout: tuple[tuple[int, bool], ...]
    lowest: int = 0
    lowest_frozen: int = 0
    taught: int | None = None
    rank: int | float | None = None
    channels: float | None = None
    attention_only: bool = False
    harmonizers: int = 0
    harmonizer_rank: int = 0

    @classmethod
    def whole(cls, num_blocks: int) -> "Depth":
        """Return the depth of the full model with all blocks tuned."""
        return cls(tuple((block, True) for block in range(num_blocks)))

    @classmethod
    def of(cls, plan: Plan) -> "Depth":
        """Return the depth of a plan."""
        lowest = next(position for position, (_, is_tuned) in enumerate(plan.layout) if is_tuned)
        frozen = [position for position, (source, _) in enumerate(plan.layout) if source in plan.frozen]
        if not frozen:
            return cls(tuple(plan.layout), lowest)
        # The teacher runs up to the end of the last segment.
        return cls(tuple(plan.layout), lowest, frozen[0], segments(plan)[-1].teacher[1] + 1)

    @property
    def tuned(self) -> tuple[int, ...]:
        """Blocks that a data owner trains."""
        return tuple(source for source, is_tuned in self.layout if is_tuned)

    @property
    def frozen(self) -> tuple[int, ...]:
        """Stored blocks that are not tuned, each once."""
        tuned = set(self.tuned)
        return tuple(dict.fromkeys(source for source, _ in self.layout if source not in tuned))

    @property
    def has_copies(self) -> bool:
        """Whether frozen copies of tuned blocks stand in for other blocks."""
        tuned = set(self.tuned)
        return any(source in tuned and not is_tuned for source, is_tuned in self.layout)

    def beside(self, shape: Shape) -> int:
        """Number of parameters of all harmonizers, with each of which a token is multiplied."""
        return 2 * self.harmonizers * self.harmonizer_rank * shape.width

    def stored(self, shape: Shape, source: int) -> int:
        """Number of stored parameters of a kept block."""
        return shape.blocks[source].parameters - self._saved(shape, source) - self._saved_biases(shape, source)

    def multiplied(self, shape: Shape, source: int) -> int:
        """Number of elements of a kept block with which a token is multiplied."""
        return shape.blocks[source].multiplied - self._saved(shape, source)

    def _saved(self, shape: Shape, source: int) -> int:
        if self.rank is None or source in self.tuned:
            return 0
        return saved_by_compressing(shape.blocks[source], self.rank, self.channels, self.attention_only)

    def _saved_biases(self, shape: Shape, source: int) -> int:
        block = shape.blocks[source]
        if self.channels is None or source in self.tuned:
            return 0
        return block.channel_biases * (block.num_channels - channels_within(self.channels, block.num_channels))


@dataclass(frozen=True)
class Trained:
    """The trained parameters of an emulator: all weights of some blocks, or a few parameters in or beside them.

    extra: number of trained parameters for each block of the full model, None for all of the block's parameters;
    products: how many of them are in matrices beside those of the block; behind: whether they come after the block, so
    that they need no backward pass through it; tuned, frozen: whether the tuned and the frozen kept blocks are trained
    (at all positions of frozen blocks, but not in frozen copies of tuned ones); head: whether the head is trained too;
    inputs: number of virtual tokens of a soft prompt, behind which the backward pass goes through every position; best:
    whether the best state is kept; recompute: whether activations are computed a second time instead of kept
    (gradient checkpointing).
    """

    extra: tuple[int, ...] | None = None
    products: tuple[int, ...] = ()
    behind: bool = False
    tuned: bool = True
    frozen: bool = False
    head: bool = False
    inputs: int = 0
    best: bool = False
    recompute: bool = False

    def blocks(self, depth: Depth) -> tuple[int, ...]:
        """Trained kept blocks."""
        return depth.tuned * self.tuned + depth.frozen * self.frozen

    def positions(self, depth: Depth) -> list[int]:
        """Blocks at the positions that run trained tensors."""
        tuned = set(depth.tuned)
        return [
            source
            for source, is_tuned in depth.layout
            if (is_tuned and self.tuned) or (source not in tuned and self.frozen)
        ]

    def above(self, depth: Depth) -> list[int]:
        """Blocks at the positions that the backward pass goes through."""
        lowest = [0] if self.inputs else [depth.lowest] * self.tuned + [depth.lowest_frozen] * self.frozen
        return [source for source, _ in depth.layout[min(lowest) + self.behind :]]

    def beside(self, depth: Depth) -> int:
        """Number of elements of trained matrices beside those of the blocks with which a token is multiplied."""
        return sum(self.products[source] for source in self.positions(depth)) if self.products else 0


@cache
def saved_by_compressing(
    block: BlockShape, rank: int | float, channels: float | None, attention_only: bool = False
) -> int:
    """Count the elements of matrices saved by factoring the block's linear modules, wherever that makes them smaller.

    rank: rank of the two factors, a number or a share of the full rank; channels: share of the channels that
    feed-forward parts keep instead; attention_only: leave the matrices of feed-forward parts as they are.

    Raises:
        InputError: when the share gives rank 0.
    """
    saved = 0
    for (num_in, num_out), is_around in zip(block.linears, block.around, strict=True):
        if attention_only and is_around:
            continue
        if channels is not None and is_around:
            removed = block.num_channels - channels_within(channels, block.num_channels)
            saved += num_in * num_out * removed // block.num_channels
            continue
        found = rank_within(rank, num_in, num_out)
        if is_worth_two(found, num_in, num_out):
            saved += num_in * num_out - found * (num_in + num_out)
    return saved
