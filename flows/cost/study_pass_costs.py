"""The cost of the stages of a study that run the model, from the arguments with which the flow calls them."""

from dataclasses import replace
from typing import Any

from flows.cost.priced import SMALL_BYTES, Cost, Priced, Sizes, without_head
from tasks.core.costs import analyses, workloads
from tasks.core.costs import totals as costs
from tasks.core.costs.totals import Passes


def lens(call: Priced) -> Cost:
    """The steps of a tuned lens, and its curves and those of the logit lens on as many validation rows."""
    sizes, given, how = call.sizes, call.arguments, call.arguments["settings"]
    shape, length = sizes.shape, min(given["block"], sizes.longest)
    rows = sizes.rows("train", given["num_rows"])
    epoch, per_epoch = workloads.training_passes(rows, length, how.batch_size, how.max_tokens, shape.limits)
    passes = _every_token(epoch, rows.num_rows).times(how.num_steps / per_epoch)
    held_out = sizes.rows("validation", given["num_rows"])
    measured = _every_token(sizes.passes(held_out, how.max_tokens, length), held_out.num_rows)
    flops = analyses.lens_training_flops(shape, passes)
    flops += 2 * _read_everywhere(sizes, measured)
    count, size = analyses.lens_parameters(shape), costs.FORMATS[sizes.precision]
    # States, translated states and gradients of every block at the positions of a pass.
    kept = (size + 2 * costs.WIDE) * shape.num_blocks * passes.largest * shape.width
    memory = size * shape.parameters + costs.TRAINED_BYTES * count + kept
    return Cost(call.name, flops, memory, costs.WIDE * count + SMALL_BYTES, costs.checkpoint_bytes(count, best=False))


def trajectory(call: Priced) -> Cost:
    """The first rows through the full model and the kept blocks of each plan, read at their last positions."""
    sizes, given = call.sizes, call.arguments
    rows = without_head(sizes.rows(given["split"], given["num_rows"]))
    passes = sizes.passes(rows, sizes.longest)
    kept = [sorted({source for source, _ in plan.depth.layout}) for plan in given["plans"].values()]
    flops, num_positions = 0.0, rows.num_rows * given["num_positions"]
    for blocks in (range(sizes.shape.num_blocks), *kept):
        flops += analyses.blocks_flops(sizes.shape, blocks, passes)
        flops += analyses.lens_reading_flops(sizes.shape, num_positions, len(blocks))
    return Cost(call.name, flops, _held(sizes, passes), SMALL_BYTES * len(kept) * max(1, rows.num_rows))


def distances(call: Priced) -> Cost:
    """The rows through the full model, read behind every block at some positions."""
    sizes, given = call.sizes, call.arguments
    passes = sizes.passes(without_head(sizes.rows(given["split"], given["num_rows"])), given["max_tokens"])
    flops = costs.forward_flops(sizes.shape, sizes.whole, passes)
    flops += analyses.lens_reading_flops(sizes.shape, min(given["num_tokens"], passes.tokens))
    disk = 6 * costs.WIDE * sizes.shape.num_blocks**2
    return Cost(call.name, flops, _held(sizes, passes), disk + SMALL_BYTES)


def importance(call: Priced) -> Cost:
    """The rows through the model, without each block, with each in the place of each, and with a tuning undone."""
    sizes, given = call.sizes, call.arguments
    shape, size = sizes.shape, costs.FORMATS[sizes.precision]
    passes = sizes.passes(sizes.rows("validation", given["num_rows"]), given["max_tokens"])
    flops = analyses.from_block_flops(shape, 0, passes) + analyses.deletion_flops(shape, passes)
    if given["pairs"]:
        flops += analyses.replacement_flops(shape, passes)
    memory = _held(sizes, passes) + analyses.kept_bytes(shape, shape.num_blocks, passes, size)
    tuned = given.get("tuned")
    disk = 16.0 * shape.num_blocks * (1 + given["pairs"] * shape.num_blocks)
    if tuned is not None:
        flops += analyses.rewinding_flops(shape, tuned.depth.tuned, passes)
        memory += size * sum(shape.blocks[block].parameters for block in tuned.depth.tuned)
    streamed = None
    if shape.streams and tuned is None and not given["pairs"]:
        # Passes without a block keep states beside those of the model.
        streamed = costs.streamed_bytes(shape, passes, sizes.precision, variants=1 + shape.num_blocks)
    return Cost(call.name, flops, memory, disk + SMALL_BYTES, streamed=streamed)


def landscape(call: Priced) -> Cost:
    """The rows with their choices at every place of the lines between points, and of the plane of the first three."""
    sizes, given = call.sizes, call.arguments
    shape, size = sizes.shape, costs.FORMATS[sizes.precision]
    passes = _with_choices(sizes, given["num_rows"], given["max_tokens"])
    changed = [_changed(sizes, given["points"][name]) for name in given["order"]]
    lowest = [min(blocks, default=shape.num_blocks) for blocks in changed]
    flops = analyses.lines_flops(shape, lowest, given["resolution_line"], passes)
    if len(lowest) > 2:
        flops += analyses.plane_flops(shape, lowest, given["resolution_plane"], passes)
    # The tensors of every point, and those that are moved.
    held = sum(shape.blocks[block].parameters for blocks in changed for block in blocks)
    moved = sum(shape.blocks[block].parameters for block in set().union(*changed))
    memory = _held(sizes, passes) + size * (held + (1 + (given["axes"] == "filter")) * moved)
    disk = 16.0 * (given["resolution_plane"] ** 2 + given["resolution_line"] * len(lowest) ** 2)
    return Cost(call.name, flops, memory + analyses.kept_bytes(shape, 2, passes, size), disk + SMALL_BYTES)


def _held(sizes: Sizes, passes: Passes) -> float:
    """Peak memory of passes through the full model."""
    return costs.forward_bytes(sizes.shape, sizes.shape.parameters, passes, sizes.precision)


def _every_token(passes: Passes, num_rows: int) -> Passes:
    """Return the passes with predictions at every token but the first of each row."""
    return replace(passes, answers=passes.tokens - num_rows)


def _read_everywhere(sizes: Sizes, passes: Passes) -> float:
    """Operations of passes of the full model whose states are read behind every block."""
    states = costs.forward_flops(sizes.shape, sizes.whole, replace(passes, answers=0.0))
    return states + analyses.lens_reading_flops(sizes.shape, passes.answers)


def _with_choices(sizes: Sizes, num_rows: int, max_tokens: int) -> Passes:
    """Passes of rows, and where the task may have choices of all of these, as long as those of the scored rows."""
    rows = sizes.rows("validation", num_rows)
    own = sizes.passes(rows, max_tokens)
    if sizes.settings.task.kind != "lm_eval":
        return own
    per_row = sizes.workload.scored.num_rows / sizes.workload.num_scored
    choices = sizes.passes(sizes.workload.scored.limited(max(1, round(rows.num_rows * per_row))), max_tokens)
    return own.plus(choices)


def _changed(sizes: Sizes, point: Any) -> set[int]:
    """Return the blocks that a point of the landscape changes; of a tuning from the store all are assumed."""
    if point is None:
        return set()
    return set(point.depth.tuned if isinstance(point, Priced) else range(sizes.shape.num_blocks))
