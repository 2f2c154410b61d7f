"""Costs of GradOT: tokens that are observed forward and back, singular values, and scores of what may be removed."""

from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import (
    FORMATS,
    NUM_PROBED,
    WIDE,
    Passes,
    emulator_parameters,
    gradient_bytes,
    gradient_flops,
)


def observed_flops(shape: Shape, depth: Depth, passes: Passes) -> float:
    """Operations of the passes, of the scores, and of the singular value decompositions (Golub and Van Loan, 8.6)."""
    scores = decompositions = 0.0
    for source in depth.frozen:
        block = shape.blocks[source]
        for (num_in, num_out), is_around in zip(block.linears, block.around, strict=True):
            if is_around:
                # Two products with what was observed, and a square one over the channels.
                scores += 2.0 * passes.tokens * (2 * num_in * num_out + max(num_in, num_out) ** 2)
                continue
            rank = min(num_in, num_out)
            scores += 4.0 * passes.tokens * rank * (num_in + num_out)
            decompositions += 6.0 * max(num_in, num_out) * rank**2 + 20.0 * rank**3
    return gradient_flops(shape, depth, passes) + scores + decompositions


def observed_bytes(shape: Shape, depth: Depth, passes: Passes, precision: str) -> float:
    """Memory of the emulator, of one pass forward and back, and of inputs and gradients of every frozen matrix."""
    kept = sum(
        num_in + num_out
        for source, _ in depth.layout
        if source in depth.frozen
        for num_in, num_out in shape.blocks[source].linears
    )
    weights = FORMATS[precision] * emulator_parameters(shape, depth)
    own = gradient_bytes(shape, depth, passes.largest, passes.largest_answers, precision)
    return weights + own + WIDE * kept * min(passes.tokens, NUM_PROBED)
