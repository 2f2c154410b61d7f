"""Operations of the analyses of studies and searches, counted as in `tasks.core.costs.totals`.

Passes through a changed model begin at the lowest changed block, since the states below it are kept. Shapes: N blocks,
d width, V vocabulary.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasks.core.blocks.prefix import MAX_BYTES
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import NUM_CROSS_CKA, Passes, backward_flops, forward_flops


def lens_parameters(shape: Shape) -> int:
    """Number of parameters of a tuned lens: a square matrix and a vector for each block but the last."""
    return (shape.num_blocks - 1) * (shape.width**2 + shape.width)


def lens_reading_flops(shape: Shape, num_positions: float, num_blocks: int | None = None) -> float:
    """Operations of reading predictions behind every block: its translator, and the head."""
    count = shape.num_blocks if num_blocks is None else num_blocks
    return 2.0 * num_positions * ((count - 1) * shape.width**2 + count * shape.head)


def lens_training_flops(shape: Shape, passes: Passes) -> float:
    """Operations of training a lens: the model forward, the lens forward, and back through the head to its weights.

    passes.answers: positions at which the lens is read.
    """
    translators = 2.0 * passes.answers * (shape.num_blocks - 1) * shape.width**2
    back = 2.0 * passes.answers * (shape.num_blocks - 1) * shape.head
    states = forward_flops(shape, Depth.whole(shape.num_blocks), replace(passes, answers=0.0))
    return states + lens_reading_flops(shape, passes.answers) + back + translators


def blocks_flops(shape: Shape, blocks: Iterable[int], passes: Passes) -> float:
    """Operations of passes through these blocks, and the head."""
    return forward_flops(shape, Depth(tuple((block, False) for block in blocks)), passes)


def from_block_flops(shape: Shape, first: int, passes: Passes) -> float:
    """Operations of passes through the blocks from `first` on, and the head."""
    return blocks_flops(shape, range(first, shape.num_blocks), passes)


def deletion_flops(shape: Shape, passes: Passes) -> float:
    """Operations of N passes, each without one block."""
    return sum(from_block_flops(shape, index + 1, passes) for index in range(shape.num_blocks))


def replacement_flops(shape: Shape, passes: Passes) -> float:
    """Operations of N x N passes, each with one block at the position of another."""
    num_blocks = shape.num_blocks
    in_place = forward_flops(shape, Depth.whole(num_blocks), replace(passes, answers=0.0))
    return num_blocks * (in_place + deletion_flops(shape, passes))


def rewinding_flops(shape: Shape, tuned: Sequence[int], passes: Passes) -> float:
    """Operations of a pass of the tuned model, and of passes in each of which one tuned block is the initial one."""
    return sum(from_block_flops(shape, first, passes) for first in (0, *tuned))


def lines_flops(shape: Shape, lowest: Sequence[int], num_places: int, passes: Passes) -> float:
    """Operations of the lines between every two points. lowest: for each point its lowest changed block, N for none."""
    pairs = [min(pair) for pair in itertools.combinations(lowest, 2)]
    below = [from_block_flops(shape, 0, passes) - from_block_flops(shape, first, passes) for first in pairs]
    return sum(below) + num_places * sum(from_block_flops(shape, first, passes) for first in pairs)


def plane_flops(shape: Shape, lowest: Sequence[int], num_places: int, passes: Passes) -> float:
    """Operations of the plane through the first three points; the axis that changes higher blocks varies fastest."""
    origin, *ends = lowest[:3]
    outer, inner = sorted(min(origin, end) for end in ends)
    below = from_block_flops(shape, 0, passes) - from_block_flops(shape, outer, passes)
    slow, fast = from_block_flops(shape, outer, passes), from_block_flops(shape, inner, passes)
    return below + num_places * slow + num_places * (num_places - 1) * fast


def kept_bytes(shape: Shape, num_states: int, passes: Passes, size: int) -> float:
    """Memory of the states that passes from a changed block begin with, in bytes. size: bytes of a number."""
    return min(MAX_BYTES, num_states * passes.tokens * shape.width * size)


def cross_flops(shape: Shape, other: Shape, num_states: tuple[int, int], num_rows: int) -> float:
    """Operations of CKA between all states of two networks: Gram matrices [n, n], and products between them."""
    first, second = num_states
    grams = 2.0 * num_rows**2 * (first * shape.width + second * other.width)
    return NUM_CROSS_CKA * (grams + 2.0 * first * second * num_rows**2)


def structure_flops(shape: Shape, num_rows: int, num_resamples: int, sizes: Sequence[int]) -> float:
    """Operations of similarities on resamples of the rows, from Gram matrices that are computed once."""
    num_blocks = shape.num_blocks
    drawn = num_rows**2 * (num_resamples + 1) + num_resamples * sum(size**2 for size in sizes if size < num_rows)
    return 2.0 * num_blocks * num_rows**2 * shape.width + 2.0 * num_blocks**2 * drawn


def distance_flops(shape: Shape, num_rows: Sequence[int]) -> float:
    """Operations of three distances between the rows of every two data sets: inner products of all rows."""
    return 3 * 2.0 * sum(num_rows) ** 2 * shape.width


def weight_flops(shape: Shape) -> float:
    """Operations of inner products of the matrices of every two blocks."""
    return 2.0 * shape.num_blocks * sum(block.matrices for block in shape.blocks)


def full_depth(shape: Shape, tuned: Sequence[int]) -> Depth:
    """Return the depth of the full model in which gradients of these blocks are computed."""
    return Depth(tuple((block, block in tuned) for block in range(shape.num_blocks)), min(tuned))


def proxy_flops(shape: Shape, emulator: Depth, passes: Passes) -> float:
    """Operations of the proxies: the full model and the emulator forward, and back for the tuned blocks' gradients.

    The divergence reads the full model's answers once more.
    """
    depths = (full_depth(shape, emulator.tuned), emulator)
    both = sum(forward_flops(shape, depth, passes) + backward_flops(shape, depth, passes) for depth in depths)
    return both + 2.0 * shape.head * passes.answers
