"""The properties of a plan, and of a way to tune its emulator, that decide costs."""

from dataclasses import dataclass
from functools import cache

from tasks.core.compression.settings import is_worth_two, rank_within
from tasks.core.costs.block_shapes import BlockShape
from tasks.core.costs.shapes import Shape
from tasks.core.plan.layout import Plan
from tasks.core.tuning.distilling import segments


@dataclass(frozen=True)
class Depth:
    """Which blocks run, and which of them are tuned.

    layout: of each position its block in the full model, and whether a data owner trains it there; lowest,
    lowest_frozen: position of the lowest tuned and of the lowest frozen block; taught: blocks of the full model that
    run where it is the teacher, None for all; rank: of the frozen blocks' matrices in two factors, as a number or a
    share of the full one, None where they are whole.
    """

    layout: tuple[tuple[int, bool], ...]
    lowest: int = 0
    lowest_frozen: int = 0
    taught: int | None = None
    rank: int | float | None = None

    @classmethod
    def whole(cls, num_blocks: int) -> "Depth":
        """The full model, every block of which is tuned."""
        return cls(tuple((block, True) for block in range(num_blocks)))

    @classmethod
    def of(cls, plan: Plan) -> "Depth":
        """Return the depth of a plan that is known."""
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
        """Blocks that are stored and not tuned, each once."""
        tuned = set(self.tuned)
        return tuple(dict.fromkeys(source for source, _ in self.layout if source not in tuned))

    @property
    def has_copies(self) -> bool:
        """Whether frozen copies of tuned blocks stand in for others."""
        tuned = set(self.tuned)
        return any(source in tuned and not is_tuned for source, is_tuned in self.layout)

    def stored(self, shape: Shape, source: int) -> int:
        """Parameters of a kept block."""
        return shape.blocks[source].parameters - self._saved(shape, source)

    def multiplied(self, shape: Shape, source: int) -> int:
        """Elements that a token is multiplied with in it."""
        return shape.blocks[source].multiplied - self._saved(shape, source)

    def _saved(self, shape: Shape, source: int) -> int:
        if self.rank is None or source in self.tuned:
            return 0
        return saved_by_factors(shape.blocks[source], self.rank)


@dataclass(frozen=True)
class Trained:
    """The trained parameters of an emulator: all weights of some blocks, or a few parameters in or beside them.

    extra: parameters that are trained of each block of the full model, None for all of its own; products: those of them
    that are matrices beside its own; behind: whether they stand behind the block, so that its own backward pass is not
    needed for them; tuned, frozen: in which kept blocks (all positions of frozen ones follow, copies of tuned ones
    not); head: whether the head is trained too; best: whether the best state is kept; recompute: whether activations
    are computed a second time instead of kept (gradient checkpointing).
    """

    extra: tuple[int, ...] | None = None
    products: tuple[int, ...] = ()
    behind: bool = False
    tuned: bool = True
    frozen: bool = False
    head: bool = False
    best: bool = False
    recompute: bool = False

    def blocks(self, depth: Depth) -> tuple[int, ...]:
        """Kept blocks that are trained."""
        return depth.tuned * self.tuned + depth.frozen * self.frozen

    def positions(self, depth: Depth) -> list[int]:
        """The block at each position that runs trained tensors."""
        tuned = set(depth.tuned)
        return [
            source
            for source, is_tuned in depth.layout
            if (is_tuned and self.tuned) or (source not in tuned and self.frozen)
        ]

    def above(self, depth: Depth) -> list[int]:
        """The block at each position that a backward pass goes through."""
        lowest = [depth.lowest] * self.tuned + [depth.lowest_frozen] * self.frozen
        return [source for source, _ in depth.layout[min(lowest) + self.behind :]]

    def beside(self, depth: Depth) -> int:
        """Elements of trained matrices beside the blocks' own that a token is multiplied with."""
        return sum(self.products[source] for source in self.positions(depth)) if self.products else 0


@cache
def saved_by_factors(block: BlockShape, rank: int | float) -> int:
    """Elements that a block has less with its linear modules in two factors of this rank, where that makes them
    smaller.

    rank: a number, or a share of the full rank. InputError where that is rank 0.
    """
    saved = 0
    for num_in, num_out in block.linears:
        found = rank_within(rank, num_in, num_out)
        if is_worth_two(found, num_in, num_out):
            saved += num_in * num_out - found * (num_in + num_out)
    return saved
