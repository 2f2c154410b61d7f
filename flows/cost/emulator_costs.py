"""The cost of the stages that make emulators from a plan, or train for them on generic text."""

from dataclasses import replace

from flows.cost.priced import SMALL_BYTES, Cost, Priced
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.gradient_compression import observed_bytes, observed_flops
from tasks.core.costs.harmonizing import (
    comparing_flops,
    harmonizer_parameters,
    harmonizing_bytes,
    harmonizing_flops,
    kept_bytes,
    replaced_depth,
)
from tasks.core.costs.totals import Passes
from tasks.core.tuning.settings import Elevation


def harmonizers(call: Priced) -> Cost:
    """Steps on windows of generic text through the full model with half of its blocks replaced, and back.

    Every `score_steps`, three choices of blocks are compared on other windows.
    """
    sizes, how, precision = call.sizes, call.arguments["how"], call.sizes.precision
    shape, protected = sizes.shape, call.arguments["protected"]
    depth = replaced_depth(shape, how.rank, how.group_size, protected)
    row = min(call.arguments["block"], shape.context)
    largest = row * min(how.batch_size, max(1, how.max_tokens // row))
    one = Passes(row, row**2, row, largest, largest)
    steps, compared = one.times(how.batch_size * how.num_steps), how.num_steps // how.score_steps * how.score_rows
    num_harmonizers = shape.num_blocks - len(protected)
    count = harmonizer_parameters(shape, how.rank, num_harmonizers)
    return Cost(
        call.name,
        harmonizing_flops(shape, depth, steps) + comparing_flops(shape, depth, one.times(compared)),
        harmonizing_bytes(shape, depth, steps, precision, count),
        # The number of each one's block has eight bytes.
        costs.WIDE * (count + shape.num_blocks) + 8 * num_harmonizers + SMALL_BYTES,
        costs.checkpoint_bytes(count, best=False),
        gaps=costs.GAPS[precision] * kept_bytes(shape, depth, steps, precision),
    )


def emulate(call: Priced) -> Cost:
    """A copy of the kept blocks and of all tensors outside the blocks; compressed, with cheaper frozen blocks."""
    shape = call.sizes.shape
    disk = shape.stored_bytes * costs.emulator_parameters(shape, call.depth)
    return Cost(call.name, disk=disk + SMALL_BYTES, on_gpu=False)


def compress_by_gradient(call: Priced) -> Cost:
    """One pass forward and back over some tokens of the support set, the scores, and the decompositions."""
    sizes, given = call.sizes, call.arguments
    depth, shape = given["emulator"].depth, sizes.shape
    rows = sizes.rows(given["split"], given["num_rows"])
    whole = sizes.passes(rows, min(given["max_tokens"], costs.NUM_PROBED))
    passes = whole.times(min(1.0, costs.NUM_PROBED / whole.tokens))
    return Cost(
        call.name,
        observed_flops(shape, depth, passes),
        observed_bytes(shape, depth, passes, sizes.precision),
        emulate(call).disk,
    )


def distill(call: Priced) -> Cost:
    """Steps on windows of generic text: the teacher forward, the emulator forward, and backward for frozen blocks.

    Every `eval_steps`, and at the end, all windows that validate go forward through both.
    """
    sizes, depth, how = call.sizes, call.depth, call.arguments["settings"]
    elevation = call.arguments.get("elevation", Elevation())
    shape, block = sizes.shape, min(call.arguments["block"], sizes.shape.context - elevation.prompt_tokens)
    # Rows of one length: the largest pass is one batch, or as much of it as fits.
    row = block + elevation.prompt_tokens
    largest = row * min(how.batch_size, max(1, how.max_tokens // row))
    tokens = float(how.batch_size * row * how.num_steps)
    passes = Passes(tokens, tokens * row, tokens, largest, largest)
    trained = Trained(tuned=False, frozen=True, best=how.eval_steps is not None)
    flops = _taught_flops(call, passes) + costs.backward_flops(shape, depth, passes, trained)
    if how.eval_steps:
        assert sizes.num_validating is not None
        # All tokens but the first are predicted, in windows that begin with the last one of the window before.
        windows = -(-(sizes.num_validating - 1) // (block - 1))
        validating = windows * row * float(-(-how.num_steps // how.eval_steps))
        flops += _taught_flops(call, Passes(validating, validating * row, validating, largest, largest))
    memory = costs.tune_bytes(shape, depth, passes, sizes.precision, trained)
    memory += costs.FORMATS[sizes.precision] * shape.parameters
    count = costs.trained_parameters(shape, depth, trained)
    working = costs.checkpoint_bytes(count, trained.best)
    gaps = costs.gap_bytes(shape, depth, passes, sizes.precision, trained)
    return Cost(call.name, flops, memory, emulate(call).disk, working, gaps=gaps)


def _taught_flops(call: Priced, passes: Passes) -> float:
    """Operations of both forward passes: the teacher's, without head and up to the last needed block, and the
    emulator's. With a margin, the teacher goes forward a second time, for its loss.
    """
    shape, depth = call.sizes.shape, call.depth
    teacher = Depth.whole(shape.num_blocks if depth.taught is None else depth.taught)
    both = costs.forward_flops(shape, teacher, replace(passes, answers=0)) + costs.forward_flops(shape, depth, passes)
    if call.arguments.get("elevation", Elevation()).margin is None:
        return both
    return both + costs.forward_flops(shape, Depth.whole(shape.num_blocks), passes)
