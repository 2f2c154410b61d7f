"""Costs of stages, from sizes alone: floating-point operations, peak memory, and disk.

Operations are counted as in Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): a multiplication and an addition for
each weight and token in the forward pass, and twice that in the backward pass, one half for the gradients of the
weights and one for those of the inputs; norms, activations and softmax are left out. The two products of attention,
which grow with the square of the length, are added. Work that this project saves is not counted: the head runs at
answer positions only, the backward pass ends at the lowest tuned block, and frozen weights get no gradient. In a
mixture of experts, a token is multiplied only with its experts, but all experts are held in memory and on disk.

Saved activations are counted as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), without the square matrices
that fused attention never writes, and without the inputs of frozen matrices, which are not needed again. A family whose
code does write these squares (BLOOM, Gemma 2) keeps more, 1.7 times as much on short rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tasks.core.costs.block_shapes import BlockShape
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.evaluation.likelihoods import HEAD_ROWS
from tasks.core.evaluation.scoring_states import MAX_BYTES

# Value, gradient and AdamW's two moments, all in float32.
TRAINED_BYTES = 16
WIDE = 4
# Copies of one position's logits in training: as computed, in float32, their log-softmax, and the gradients.
LOGIT_COPIES = 4
FORMATS = {"float32": 4, "bfloat16": 2}
# Share of the activations that a tuning on a CPU takes beside them. Measured on models of OPT-125m's and SmolLM2's
# shape with few tuned blocks, 0.33 to 0.42 and 0.36 to 0.63; tuned whole they take less.
GAPS = {"float32": 0.33, "bfloat16": 0.55}
# Estimators of CKA between the states of one model, and of two.
NUM_CKA, NUM_CROSS_CKA = 5, 3
# `tasks.core.stand_ins.least_squares.ALPHAS`, whose module needs torch.
NUM_PENALTIES = 5
# `tasks.core.stand_ins.effects.NUM_TOKENS`, likewise.
NUM_PROBED = 1024
# While a checkpoint is written, the previous one still exists.
NUM_CHECKPOINTS = 2


class Streamed(NamedTuple):
    """Peak bytes of passes for which blocks are loaded one at a time.

    device: where they compute; states: in main memory, between two blocks and as results.
    """

    device: float
    states: float


@dataclass(frozen=True)
class Passes:
    """Totals of forward passes over padded rows.

    tokens: padded tokens; squares: sum of the squared padded lengths of rows; answers: positions whose logits are
    computed; largest: padded tokens of the largest pass; largest_answers: the largest number of such positions in one
    pass; largest_kept: the largest number of tokens whose keys and values a pass keeps in all blocks.
    """

    tokens: float
    squares: float
    answers: float
    largest: float
    largest_answers: float
    largest_kept: float = 0.0

    def times(self, count: float) -> "Passes":
        """Return the totals of `count` repetitions of these passes."""
        return replace(self, tokens=self.tokens * count, squares=self.squares * count, answers=self.answers * count)

    def plus(self, other: "Passes") -> "Passes":
        """Return the totals of these passes and others."""
        return Passes(
            self.tokens + other.tokens,
            self.squares + other.squares,
            self.answers + other.answers,
            max(self.largest, other.largest),
            max(self.largest_answers, other.largest_answers),
            max(self.largest_kept, other.largest_kept),
        )


def forward_flops(shape: Shape, depth: Depth, passes: Passes, trained: Trained | None = None) -> float:
    """Operations of forward passes, with the head at answer positions only."""
    beside = trained.beside(depth) if trained else 0
    return _forward(shape, depth, [source for source, _ in depth.layout], passes, beside)


def backward_flops(shape: Shape, depth: Depth, passes: Passes, trained: Trained | None = None) -> float:
    """Operations of the backward passes of a tuning, through every position from the lowest trained one upwards."""
    trained = trained or Trained()
    above, weights = trained.above(depth), trained.beside(depth)
    if trained.extra is None:
        weights = _multiplied(shape, depth, trained.positions(depth))
    passed = _multiplied(shape, depth, above) + depth.beside(shape) + trained.beside(depth)
    products = 2 * (passed + weights) * passes.tokens
    head = 2 * shape.head * passes.answers * (1 + trained.head)
    again = 0.0
    if trained.recompute:
        again = _forward(shape, depth, above, replace(passes, answers=0.0), trained.beside(depth))
    return products + head + 2 * _attention(shape, above, passes) + again


def similarity_flops(shape: Shape, num_rows: int) -> float:
    """Operations of all similarities: Gram matrices [n, n] of N + 1 states, and one product of them.

    Source: method, section 2.
    """
    states = shape.num_blocks + 1
    return NUM_CKA * (2.0 * states * num_rows**2 * shape.width + 2.0 * states**2 * num_rows**2)


def stand_in_flops(shape: Shape, tokens: float, num_fronts: int, num_runs: int) -> float:
    """Operations of linear stand-ins: products [d, d] over all tokens, and systems that are solved for every penalty.

    num_fronts: blocks in front of one of the runs.
    """
    squared = float(shape.width) ** 2
    # For each penalty: Cholesky factors, two triangular systems with d right sides, and the error of the result. Then
    # the first two once more, for the best penalty.
    solved = (NUM_PENALTIES * (1 / 3 + 2 + 2) + 1 / 3 + 2) * squared * shape.width
    return 2 * squared * tokens * (num_fronts + num_runs) + num_runs * solved


def stand_in_bytes(shape: Shape, largest: float, num_fronts: int, num_runs: int) -> float:
    """Memory of linear stand-ins beside that of the passes: sums of two parts of the rows, and one pass's states.

    largest: padded tokens of the largest pass.
    """
    sums = 2 * (num_fronts + num_runs) * shape.width**2
    # Every state as it was captured, and scaled; and the outputs of linear modules.
    states = largest * shape.width * (2 * shape.num_blocks + num_fronts)
    return float(WIDE * (sums + states))


def effect_flops(shape: Shape, passes: Passes, num_runs: int) -> float:
    """Operations of the effects of linear stand-ins: tokens forward and back to the embeddings, then through each map.

    passes: of the tokens that are probed, all of which are predicted. No gradient of a weight is computed.
    """
    through = gradient_flops(shape, Depth.whole(shape.num_blocks), passes)
    return through + 2.0 * num_runs * passes.tokens * shape.width**2


def gradient_flops(shape: Shape, depth: Depth, passes: Passes) -> float:
    """Operations of passes forward, and back to the embeddings without gradients of weights."""
    sources = [source for source, _ in depth.layout]
    return 2 * forward_flops(shape, depth, passes) + _attention(shape, sources, passes)


def effect_bytes(shape: Shape, tokens: float, precision: str) -> float:
    """Memory of the effects of linear stand-ins, beside the model: activations of a pass, and what is kept of it.

    Outputs, states and gradients of every block are kept in float32.
    """
    whole = Depth.whole(shape.num_blocks)
    own = gradient_bytes(shape, whole, tokens, min(HEAD_ROWS, tokens), precision)
    return own + 3 * WIDE * shape.num_blocks * tokens * shape.width


def gradient_bytes(shape: Shape, depth: Depth, tokens: float, answers: float, precision: str) -> float:
    """Activations of a pass that goes back to the embeddings, and logits of answers, beside the model's weights."""
    size = FORMATS[precision]
    kept = sum(_kept_by_any(shape.blocks[source], size) for source, _ in depth.layout) + _kept_by_harmonizers(depth)
    return size * kept * tokens + WIDE * LOGIT_COPIES * answers * shape.vocabulary


def forward_bytes(shape: Shape, num_parameters: float, passes: Passes, precision: str) -> float:
    """Peak memory of scoring or capture: all weights, and the widest activations of a block in the largest pass.

    The keys and values of prompts that several choices share are kept in all blocks.
    """
    size = FORMATS[precision]
    widest = max(_widest(shape.width, block) for block in shape.blocks)
    head = 2 * WIDE * min(HEAD_ROWS, passes.largest) * shape.vocabulary if passes.answers else 0.0
    # A block copies its own while it adds tokens, and widens them to its queries.
    copied = max(block.key_width + block.attention_width for block in shape.blocks)
    kept = 2 * (sum(block.key_width for block in shape.blocks) + copied) * passes.largest_kept
    return size * (num_parameters + passes.largest * widest + kept) + head


def streamed_bytes(
    shape: Shape, passes: Passes, precision: str, resident: Iterable[int] = (), variants: int = 1
) -> Streamed:
    """Peak memory of capture or scoring with blocks on disk: one block computes while the next is read.

    resident: blocks that stay in memory beside these two; variants: models that are scored by the same passes. Scoring
    runs in parts, whose states have a bound.
    """
    size = FORMATS[precision]
    largest = max(block.parameters for block in shape.blocks)
    widest = max(_widest(shape.width, block) for block in shape.blocks)
    held = sum(shape.blocks[index].parameters for index in resident)
    device = size * (shape.outside + held + 2 * largest + passes.largest * widest)
    states = size * passes.tokens * shape.width
    if passes.answers:
        device += 2 * WIDE * min(HEAD_ROWS, passes.largest) * shape.vocabulary
        states = min(variants * states, max(MAX_BYTES, variants * size * passes.largest * shape.width))
    return Streamed(float(device), float(states))


def tune_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str, trained: Trained | None = None) -> float:
    """Peak memory of a tuning: frozen weights, trained ones with optimizer state, saved activations, answer logits."""
    trained, size = trained or Trained(), FORMATS[precision]
    count = trained_parameters(shape, depth, trained)
    # A block with trained parameters beside it stays in the narrow format; frozen copies of tuned blocks are added.
    own = _own_parameters(shape, depth, trained) if trained.extra is None else 0
    repeated = sum(shape.blocks[source].parameters for source in depth.tuned) if depth.has_copies else 0
    frozen = emulator_parameters(shape, depth) - own + repeated
    per_trained = TRAINED_BYTES + WIDE * trained.best
    if trained.extra is None and precision != "float32":
        # Autocast keeps a narrow copy of each wide matrix until the backward pass is done.
        per_trained += size
    return (
        size * frozen
        + per_trained * count
        + passes.largest * saved_bytes(shape, depth, size, trained)
        + WIDE * LOGIT_COPIES * passes.largest_answers * shape.vocabulary
    )


def gap_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str, trained: Trained | None = None) -> float:
    """Main memory that a tuning takes on a CPU beside `tune_bytes`.

    Gradients of activations, and gaps between tensors of varying sizes: measured as a share of the activations.
    """
    return GAPS[precision] * passes.largest * saved_bytes(shape, depth, FORMATS[precision], trained)


def saved_bytes(shape: Shape, depth: Depth, size: int, trained: Trained | None = None) -> float:
    """Bytes kept for the backward pass of one token, over all positions that the pass goes through.

    Every block keeps the inputs of its norms, the queries, keys, values (as wide as the queries, since heads that share
    them get copies) and output of the attention, the input of the activation, when gated also its result and the gate,
    and the outputs of its experts, which are weighted. A trained block also keeps the inputs of its matrices, and the
    normalised input of an RMS norm. In a narrow format, families compute RMS norms in float32, so that their inputs
    are kept at twice the size, and each matrix behind one keeps its own narrow copy.
    """
    trained = trained or Trained()
    above = [_kept_by_any(shape.blocks[source], size) for source in trained.above(depth)]
    is_whole = trained.extra is None
    own = [_kept_by_trained(shape.blocks[source], is_whole, size) for source in trained.positions(depth)]
    beside = _kept_by_harmonizers(depth)
    if trained.recompute:
        return size * (len(above) * shape.width + max(above, default=0) + max(own, default=0) + beside)
    return size * (sum(above) + sum(own) + beside)


def _kept_by_harmonizers(depth: Depth) -> int:
    """Number of elements of one token that frozen harmonizers keep: the outputs of their ReLU."""
    return depth.harmonizers * depth.harmonizer_rank


def _kept_by_any(block: BlockShape, size: int) -> int:
    inside = (block.activation_copies + 2 * block.is_gated) * block.hidden_width
    return block.normed + _widened(block, size) + 4 * block.attention_width + inside + block.gathered


def _kept_by_trained(block: BlockShape, is_whole: bool, size: int) -> int:
    if not is_whole:
        return block.normed
    normalised = block.normed * (not block.has_layer_norms) + _widened(block, size)
    return block.normed + block.hidden_width + normalised + block.gathered


def _widened(block: BlockShape, size: int) -> int:
    """Number of elements that enter RMS norms in a narrow format and are widened to float32."""
    return block.normed if size < WIDE and not block.has_layer_norms else 0


def trained_parameters(shape: Shape, depth: Depth, trained: Trained | None = None) -> int:
    """Number of trained parameters."""
    trained = trained or Trained()
    if trained.extra is None:
        inside = _own_parameters(shape, depth, trained)
    else:
        inside = sum(trained.extra[source] for source in trained.blocks(depth))
    return inside + (shape.head + shape.head_vectors) * trained.head + shape.width * trained.inputs


def emulator_parameters(shape: Shape, depth: Depth) -> int:
    """Number of disclosed parameters: every kept block once, harmonizers, and everything outside the blocks."""
    blocks = sum(depth.stored(shape, source) for source in {source for source, _ in depth.layout})
    return blocks + depth.beside(shape) + shape.outside


def states_bytes(shape: Shape, num_rows: int, num_blocks: int) -> float:
    """Disk space of captured states: two poolings of N + 1 states [n, d] in float32, and N influences."""
    return WIDE * (2.0 * (num_blocks + 1) * num_rows * shape.width + num_blocks)


def checkpoint_bytes(count: int, best: bool) -> float:
    """Disk space of a running tuning: two checkpoints of the values, two moments and, with `best`, a best state."""
    return float(NUM_CHECKPOINTS * WIDE * (3 + best) * count)


def _forward(shape: Shape, depth: Depth, sources: Sequence[int], passes: Passes, beside: int) -> float:
    weights = _multiplied(shape, depth, sources) + depth.beside(shape) + shape.around + beside
    return 2 * weights * passes.tokens + _attention(shape, sources, passes) + 2 * shape.head * passes.answers


def _widest(width: int, block: BlockShape) -> int:
    """Largest number of elements of one token in a block: in its feed-forward part, or in its attention."""
    feed_forward = 3 * width + (3 if block.is_gated else 2) * block.hidden_width + 2 * block.gathered
    return max(feed_forward, 3 * width + 2 * block.attention_width + 2 * block.key_width)


def _own_parameters(shape: Shape, depth: Depth, trained: Trained) -> int:
    """Number of parameters of the trained blocks."""
    return sum(depth.stored(shape, source) for source in trained.blocks(depth))


def _multiplied(shape: Shape, depth: Depth, sources: Iterable[int]) -> int:
    """Number of elements with which a token is multiplied in these blocks."""
    return sum(depth.multiplied(shape, source) for source in sources)


def _attention(shape: Shape, sources: Iterable[int], passes: Passes) -> float:
    """Operations of queries times keys and of weights times values: each 2 T^2 for each of the attention's columns."""
    return 4.0 * sum(shape.blocks[source].attention_width for source in sources) * passes.squares
