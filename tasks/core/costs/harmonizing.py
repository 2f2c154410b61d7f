"""Costs of training harmonizers and scores: a full model, half of whose blocks are replaced in every pass."""

from collections.abc import Sequence

from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import (
    FORMATS,
    TRAINED_BYTES,
    Passes,
    backward_flops,
    forward_flops,
    gradient_bytes,
)

# `tasks.core.harmonizers.training.NUM_CHOICES`, whose module needs torch.
NUM_CHOICES = 3


def harmonizer_parameters(shape: Shape, rank: int, count: int = 1) -> int:
    """Number of parameters of harmonizers."""
    return 2 * rank * shape.width * count


def replaced_depth(shape: Shape, rank: int, group_size: int, protected: Sequence[int] = ()) -> Depth:
    """Return the blocks and harmonizers that run in one pass, where the lower blocks of every group are replaced.

    Which blocks are replaced changes from pass to pass; with the lowest one, the backward pass is longest.
    """
    candidates = [block for block in range(shape.num_blocks) if block not in protected]
    count = max(1, len(candidates) // group_size)
    size, longer = divmod(len(candidates), count)
    sizes = [size + (at < longer) for at in range(count)]
    replaced: set[int] = set()
    for at, size in enumerate(sizes):
        start = sum(sizes[:at])
        replaced |= {*candidates[start : start + size // 2]}
    kept = tuple((block, False) for block in range(shape.num_blocks) if block not in replaced)
    lowest = sum(block < candidates[0] for block, _ in kept)
    return Depth(kept, lowest_frozen=lowest, harmonizers=len(replaced), harmonizer_rank=rank)


def harmonizing_flops(shape: Shape, depth: Depth, passes: Passes) -> float:
    """Operations of training passes: forward, and back to the lowest harmonizer; only harmonizers get gradients."""
    trained = harmonizer_parameters(shape, depth.harmonizer_rank, depth.harmonizers)
    back = backward_flops(shape, depth, passes, _passed_through(shape))
    return forward_flops(shape, depth, passes) + back + 2.0 * trained * passes.tokens


def comparing_flops(shape: Shape, depth: Depth, passes: Passes) -> float:
    """Operations of comparing choices of blocks on the rows of these passes."""
    return NUM_CHOICES * forward_flops(shape, depth, passes)


def harmonizing_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str, num_trained: int) -> float:
    """Memory of the full model, of harmonizers with optimizer state, and of one pass forward and back.

    num_trained: number of parameters of all harmonizers.
    """
    size = FORMATS[precision]
    # Autocast keeps a narrow copy of each wide matrix until the backward pass is done.
    per_trained = TRAINED_BYTES + size * (precision != "float32")
    weights = size * shape.parameters + per_trained * num_trained
    return weights + kept_bytes(shape, depth, passes, precision)


def kept_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str) -> float:
    """Activations of one pass; those of harmonizers are their inputs, beside what frozen ones keep."""
    inputs = FORMATS[precision] * depth.harmonizers * shape.width * passes.largest
    return gradient_bytes(shape, depth, passes.largest, passes.largest_answers, precision) + inputs


def _passed_through(shape: Shape) -> Trained:
    """Frozen blocks, through which gradients pass to what is trained between them."""
    return Trained(extra=(0,) * shape.num_blocks, tuned=False, frozen=True)
