"""What stages cost, from sizes alone: floating-point operations, memory at the peak, and disk.

Operations are counted as in Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): a multiplication and an addition for
each weight and token in the forward pass, and twice that in the backward pass, one half for the gradients of the
weights and one for those of what goes in; norms, activations and softmax are left out. Beside the weights stand the two
products of attention, which grow with the square of the length. What this project leaves out is left out here too: the
head runs at answer positions only, the backward pass ends at the lowest tuned block, frozen weights get no gradient.

Saved activations are counted as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), without the square matrices
that fused attention never writes, and without the inputs of frozen matrices, which nothing reads again. A family whose
own code does write those squares (BLOOM, Gemma 2) keeps more, 1.7 times as much on short rows.
"""

from dataclasses import dataclass, replace

from tasks.core.compression import is_worth_two, rank_within
from tasks.core.scoring import HEAD_ROWS
from tasks.core.shapes import Shape

# float32 value and gradient, and AdamW's two moments.
TRAINED_BYTES = 16
WIDE = 4
# Of one position's logits in training: as computed, in float32, their log-softmax, and the gradient of each.
LOGIT_COPIES = 4
FORMATS = {"float32": 4, "bfloat16": 2}
NUM_CKA = 3
# While one is written, the one before it is still there.
NUM_CHECKPOINTS = 2


@dataclass(frozen=True)
class Passes:
    """Forward passes over padded rows, as sums over all of them.

    tokens: padded tokens; squares: sum of the squared padded lengths of rows; answers: positions whose logits are
    computed; largest: padded tokens of the largest pass; largest_answers: positions in it whose logits are computed.
    """

    tokens: float
    squares: float
    answers: float
    largest: float
    largest_answers: float

    def times(self, count: float) -> "Passes":
        """As many times the same passes."""
        return Passes(
            self.tokens * count, self.squares * count, self.answers * count, self.largest, self.largest_answers
        )


@dataclass(frozen=True)
class Depth:
    """What of a plan decides costs.

    positions: blocks that run one after another; kept: blocks that are stored; tuned: those of them that a data owner
    trains, lowest: position of the lowest one; copies: positions at which frozen copies of tuned blocks stand in for
    others; lowest_frozen: position of the lowest frozen block; taught: blocks of the full model that run where it is
    the teacher, None for all; factored: elements of a frozen block's matrices in two factors, None where they are
    whole.
    """

    positions: int
    kept: int
    tuned: int
    lowest: int = 0
    copies: int = 0
    lowest_frozen: int = 0
    taught: int | None = None
    factored: int | None = None

    @classmethod
    def whole(cls, num_blocks: int) -> "Depth":
        """The full model, every block of which is tuned."""
        return cls(num_blocks, num_blocks, num_blocks)

    def frozen_block(self, shape: Shape) -> int:
        """Parameters of a frozen block."""
        return shape.block if self.factored is None else self.factored + shape.vectors


@dataclass(frozen=True)
class Trained:
    """What is trained of an emulator: all weights of some blocks, or a few parameters in or beside them.

    extra: parameters of a block that are trained, None for all of its own; products: those of them that are matrices
    beside its own; behind: whether they stand behind the block, so that its own backward pass is not needed for them;
    tuned, frozen: in which kept blocks (all positions of frozen ones follow, copies of tuned ones not); head: whether
    the head is trained too; best: whether the best state is kept; recompute: whether activations are computed a second
    time instead of kept (gradient checkpointing).
    """

    extra: int | None = None
    products: int = 0
    behind: bool = False
    tuned: bool = True
    frozen: bool = False
    head: bool = False
    best: bool = False
    recompute: bool = False

    def blocks(self, depth: Depth) -> int:
        """Number of kept blocks that are trained."""
        return depth.tuned * self.tuned + (depth.kept - depth.tuned) * self.frozen

    def positions(self, depth: Depth) -> int:
        """Number of positions that run trained tensors."""
        return depth.tuned * self.tuned + (depth.positions - depth.tuned - depth.copies) * self.frozen

    def above(self, depth: Depth) -> int:
        """Number of positions that a backward pass goes through."""
        lowest = [depth.lowest] * self.tuned + [depth.lowest_frozen] * self.frozen
        return depth.positions - min(lowest) - self.behind


def forward_flops(shape: Shape, depth: Depth, passes: Passes, trained: Trained | None = None) -> float:
    """Operations of forward passes, with the head at answer positions."""
    weights = _matrices(shape, depth, depth.positions) + shape.around
    if trained:
        weights += trained.products * trained.positions(depth)
    return 2 * weights * passes.tokens + _attention(shape, depth.positions, passes) + 2 * shape.head * passes.answers


def backward_flops(shape: Shape, depth: Depth, passes: Passes, trained: Trained | None = None) -> float:
    """Operations of the backward passes of tuning: through every position from the lowest trained one upwards."""
    trained = trained or Trained()
    above, headless = trained.above(depth), replace(passes, answers=0.0)
    beside = trained.products * trained.positions(depth)
    weights = beside
    if trained.extra is None:
        of_frozen = trained.positions(depth) - depth.tuned * trained.tuned
        weights = depth.tuned * trained.tuned * shape.matrices + of_frozen * _frozen_matrices(shape, depth)
    products = 2 * (_matrices(shape, depth, above) + beside + weights) * passes.tokens
    head = 2 * shape.head * passes.answers * (1 + trained.head)
    again = forward_flops(shape, replace(depth, positions=above), headless, trained) if trained.recompute else 0.0
    return products + head + 2 * _attention(shape, above, passes) + again


def similarity_flops(shape: Shape, num_rows: int) -> float:
    """Operations of all similarities: Gram matrices [n, n] of N + 1 states, and one product of them (method, 2)."""
    states = shape.num_blocks + 1
    return NUM_CKA * (2.0 * states * num_rows**2 * shape.width + 2.0 * states**2 * num_rows**2)


def forward_bytes(shape: Shape, num_parameters: float, passes: Passes, precision: str) -> float:
    """Peak memory of scoring or capture: all weights, and the widest place of one block for the largest pass."""
    size = FORMATS[precision]
    feed_forward = 3 * shape.width + (3 if shape.is_gated else 2) * shape.hidden_width
    attention = 3 * shape.width + 2 * shape.attention_width + 2 * shape.key_width
    head = 2 * WIDE * min(HEAD_ROWS, passes.largest) * shape.vocabulary if passes.answers else 0.0
    return size * num_parameters + size * passes.largest * max(feed_forward, attention) + head


def tune_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str, trained: Trained | None = None) -> float:
    """Peak memory of tuning: frozen weights, trained ones with optimizer, saved activations, logits of answers."""
    trained, size = trained or Trained(), FORMATS[precision]
    count = trained_parameters(shape, depth, trained)
    # A block of which something beside it is trained stays in the narrow format; a copy of a tuned one is one more.
    own = _own_parameters(shape, depth, trained) if trained.extra is None else 0
    repeated = depth.tuned * shape.block if depth.copies else 0
    frozen = emulator_parameters(shape, depth) - own + repeated
    per_trained = TRAINED_BYTES + WIDE * trained.best
    if trained.extra is None and precision != "float32":
        # Autocast keeps a narrow copy of each wide matrix until the backward pass is through.
        per_trained += size
    above = trained.above(depth)
    return (
        size * frozen
        + per_trained * count
        + passes.largest * saved_bytes(shape, above, trained.positions(depth), size, trained)
        + WIDE * LOGIT_COPIES * passes.largest_answers * shape.vocabulary
    )


def saved_bytes(shape: Shape, above: int, num_trained: int, size: int, trained: Trained | None = None) -> float:
    """Bytes kept for the backward pass of one token: of `above` blocks, of which `num_trained` are trained.

    Every block keeps what goes into its norms, queries, keys, values (as wide as the queries: heads that share them get
    copies) and attention's output, and what its activation reads, where it is gated also its result and the gate; a
    trained one also the inputs of its matrices, and a root mean square norm's normed input.
    """
    trained = trained or Trained()
    hidden = shape.hidden_width
    any_block = shape.normed + 4 * shape.attention_width
    any_block += (shape.activation_copies + 2 * shape.is_gated) * hidden
    own_inputs = shape.normed + (hidden + shape.normed * (not shape.has_layer_norms) if trained.extra is None else 0)
    if trained.recompute:
        return size * (above * shape.width + any_block + own_inputs)
    return size * (above * any_block + num_trained * own_inputs)


def trained_parameters(shape: Shape, depth: Depth, trained: Trained | None = None) -> int:
    """Number of parameters that are trained."""
    trained = trained or Trained()
    inside = _own_parameters(shape, depth, trained) if trained.extra is None else trained.blocks(depth) * trained.extra
    return inside + (shape.head + shape.head_vectors) * trained.head


def emulator_parameters(shape: Shape, depth: Depth) -> int:
    """Parameters that are given away: every kept block once, and all that is outside the blocks."""
    return depth.tuned * shape.block + (depth.kept - depth.tuned) * depth.frozen_block(shape) + shape.outside


def factored_matrices(shape: Shape, rank: int | float) -> int:
    """Elements of a block's matrices with its linear ones in two factors of this rank, where that makes them smaller.

    rank: a number, or a share of the full rank. InputError where that is rank 0.
    """
    saved = 0
    for num_in, num_out in shape.linears:
        found = rank_within(rank, num_in, num_out)
        if is_worth_two(found, num_in, num_out):
            saved += num_in * num_out - found * (num_in + num_out)
    return shape.matrices - saved


def states_bytes(shape: Shape, num_rows: int) -> float:
    """Disk of captured states: two poolings of N + 1 states [n, d] in float32, and N influences."""
    return WIDE * (2.0 * (shape.num_blocks + 1) * num_rows * shape.width + shape.num_blocks)


def checkpoint_bytes(count: int, best: bool) -> float:
    """Disk of a tuning while it runs: values, two moments, perhaps a best state; once written, once being written."""
    return float(NUM_CHECKPOINTS * WIDE * (3 + best) * count)


def _own_parameters(shape: Shape, depth: Depth, trained: Trained) -> int:
    """Parameters of the blocks that are trained whole."""
    of_frozen = (depth.kept - depth.tuned) * depth.frozen_block(shape) * trained.frozen
    return depth.tuned * shape.block * trained.tuned + of_frozen


def _frozen_matrices(shape: Shape, depth: Depth) -> int:
    return shape.matrices if depth.factored is None else depth.factored


def _matrices(shape: Shape, depth: Depth, above: int) -> int:
    """Elements that a token is multiplied with in so many of the upper positions, which hold all tuned blocks."""
    whole = min(above, depth.tuned + depth.copies)
    return whole * shape.matrices + (above - whole) * _frozen_matrices(shape, depth)


def _attention(shape: Shape, positions: int, passes: Passes) -> float:
    """Queries times keys, and weights times values: 2 T^2 operations for each of the attention's columns, twice."""
    return 4.0 * shape.attention_width * positions * passes.squares
