"""The cost of each stage of a run, from the arguments with which the flow calls it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from flows.cost.emulator_costs import compress_by_gradient, distill, emulate, harmonizers
from flows.cost.priced import SMALL_BYTES, Cost, Priced, Sizes, count_rows, ran, without_head
from tasks.core.costs import totals as costs
from tasks.core.costs import workloads
from tasks.core.costs.totals import Passes, Streamed
from tasks.core.plan.spans import runs_up_to

CostOf = Callable[[Priced], Cost]
# Bytes of a report with its pictures, and of a check's limits and facts. Both as in the demo.
REPORT_BYTES, CHECK_BYTES = 700_000, 3500
# The row of the tunings of the full model, apart from those of emulators.
FULL_TUNE = "full_tune"


def fixed(disk: float) -> CostOf:
    """Return the cost of a stage that computes nearly nothing: its bytes on disk."""
    return lambda call: Cost(call.name, disk=disk, on_gpu=False)


def capture(call: Priced) -> Cost:
    """The support set through all blocks of the full model or of an emulator."""
    sizes, given = call.sizes, call.arguments
    depth = ran(given["model"], sizes)
    rows = without_head(sizes.rows(given["split"], given["num_rows"]))
    passes = sizes.passes(rows, given["max_tokens"])
    return Cost(
        call.name,
        costs.forward_flops(sizes.shape, depth, passes),
        costs.forward_bytes(sizes.shape, costs.emulator_parameters(sizes.shape, depth), passes, sizes.precision),
        costs.states_bytes(sizes.shape, rows.num_rows, len(depth.layout)) + SMALL_BYTES,
        streamed=_streamed_capture(sizes, passes, rows.num_rows) if call.name == "capture" else None,
    )


def _streamed_capture(sizes: Sizes, passes: Passes, num_rows: int) -> Streamed | None:
    if not sizes.shape.streams:
        return None
    found = costs.streamed_bytes(sizes.shape, passes, sizes.precision)
    # Pooled states of the batches, of all rows, and in the order of the rows.
    results = 3 * costs.states_bytes(sizes.shape, num_rows, sizes.shape.num_blocks)
    return found._replace(states=found.states + results)


def iterative_drop(call: Priced) -> Cost:
    """The support set through all blocks, through all but one, and so on, until `num_kept` blocks remain."""
    once, num_blocks = capture(call), call.sizes.shape.num_blocks
    runs = sum(range(call.arguments["num_kept"], num_blocks + 1)) / num_blocks
    return Cost(call.name, once.flops * runs, once.memory, SMALL_BYTES)


def stand_in_errors(call: Priced) -> Cost:
    """The support set once through the full model, the stand-ins of all runs of blocks, and their effects."""
    sizes, num_blocks = call.sizes, call.sizes.shape.num_blocks
    runs = runs_up_to(num_blocks, call.arguments["longest"])
    found = _fitted(call, runs, SMALL_BYTES + 3 * costs.WIDE * num_blocks**2)
    rows = sizes.rows(call.arguments["split"], call.arguments["num_rows"])
    whole = sizes.passes(rows, costs.NUM_PROBED)
    share = min(1.0, costs.NUM_PROBED / whole.tokens)
    probed = replace(whole.times(share), answers=whole.tokens * share)
    return replace(
        found,
        flops=found.flops + costs.effect_flops(sizes.shape, probed, len(runs)),
        memory=found.memory + costs.effect_bytes(sizes.shape, probed.tokens, sizes.precision),
    )


def stand_ins(call: Priced) -> Cost:
    """The same with the stand-ins of one plan: at most one behind each frozen block, and one for each removed one."""
    depth, shape = call.arguments["plan"].depth, call.sizes.shape
    count = min(len(depth.frozen), shape.num_blocks - len(depth.layout))
    runs = [(front, front + 1) for front in depth.frozen[:count]]
    return _fitted(call, runs, SMALL_BYTES + costs.WIDE * count * shape.width**2)


def _fitted(call: Priced, runs: Sequence[tuple[int, int]], disk: float) -> Cost:
    sizes, given = call.sizes, call.arguments
    rows = without_head(sizes.rows(given["split"], given["num_rows"]))
    passes = sizes.passes(rows, given["max_tokens"])
    counts = len({front for front, _ in runs}), len(runs)
    return Cost(
        call.name,
        costs.forward_flops(sizes.shape, sizes.whole, passes)
        + costs.stand_in_flops(sizes.shape, passes.tokens, *counts),
        costs.forward_bytes(sizes.shape, sizes.shape.parameters, passes, sizes.precision)
        + costs.stand_in_bytes(sizes.shape, passes.largest, *counts),
        disk,
    )


def similarity(call: Priced) -> Cost:
    """All measures between all states, computed on the CPU."""
    shape, count = call.sizes.shape, count_rows(call.arguments["states"])
    # Of each state also a share and a channel's number, which has eight bytes.
    disk = costs.WIDE * ((costs.NUM_CKA + 1) * (shape.num_blocks + 1) ** 2 + 4 * shape.num_blocks + 3)
    return Cost(call.name, costs.similarity_flops(shape, count), 0.0, disk + SMALL_BYTES, on_gpu=False)


def evaluate(call: Priced) -> Cost:
    """The scored rows through the emulator, or through the full model where there is none."""
    workload = call.sizes.workload
    cost = scored(call, workload.scored)
    # Each generated token needs all blocks again, so the model is loaded whole.
    return replace(cost, streamed=None) if workload.writes else cost


def scored(call: Priced, rows: workloads.Lengths) -> Cost:
    """Forward passes with logits at the answers, through the emulator or the full model."""
    sizes, depth, tuned = call.sizes, call.depth, call.arguments.get("tuned")
    rows = rows.longer(tuned.trained.inputs) if tuned is not None else rows
    passes = sizes.scoring_passes(rows, call.arguments["max_tokens"])
    flops = costs.forward_flops(sizes.shape, depth, passes)
    held = costs.emulator_parameters(sizes.shape, depth)
    memory = costs.forward_bytes(sizes.shape, held, passes, sizes.precision)
    return Cost(call.name, flops, memory, SMALL_BYTES, streamed=_streamed_scoring(call, rows))


def _streamed_scoring(call: Priced, rows: workloads.Lengths) -> Streamed | None:
    """Return the memory of scoring the full model or a plug-in block by block, where that is possible and of use."""
    sizes, tuned = call.sizes, call.arguments.get("tuned")
    every_block = tuned is not None and tuned.name != "plug_in"
    if not sizes.shape.streams or call.arguments.get("emulator") or every_block:
        return None
    passes = sizes.passes(rows, call.arguments["max_tokens"])
    return costs.streamed_bytes(sizes.shape, passes, sizes.precision, tuned.depth.tuned if tuned else ())


def tune(call: Priced) -> Cost:
    """All steps and validations of one tuning; that of the full model has its own row."""
    sizes, settings, depth, trained = call.sizes, call.arguments["settings"], call.depth, call.trained
    shape = sizes.shape
    longest = min(shape.context, sizes.longest + trained.inputs)
    epoch, per_epoch = workloads.training_passes(
        sizes.workload.train.longer(trained.inputs), longest, settings.batch_size, settings.max_tokens, shape.limits
    )
    num_steps = settings.num_steps or settings.num_epochs * per_epoch
    passes = epoch.times(num_steps / per_epoch)
    flops = costs.forward_flops(shape, depth, passes, trained) + costs.backward_flops(shape, depth, passes, trained)
    if settings.eval_steps:
        checks = sizes.passes(sizes.workload.validation.longer(trained.inputs), settings.max_tokens, longest)
        checks = checks.times(-(-num_steps // settings.eval_steps))
        flops += costs.forward_flops(shape, depth, checks, trained)
    count = costs.trained_parameters(shape, depth, trained)
    return Cost(
        FULL_TUNE if call.is_full else call.name,
        flops,
        costs.tune_bytes(shape, depth, passes, sizes.precision, trained),
        costs.WIDE * count + SMALL_BYTES,
        costs.checkpoint_bytes(count, trained.best),
        gaps=costs.gap_bytes(shape, depth, passes, sizes.precision, trained),
    )


def plug_in(call: Priced) -> Cost:
    """The tuned blocks in the format in which the model is loaded; with export, also the full model."""
    shape, trained = call.sizes.shape, call.sizes.trained
    exported = shape.parameters if call.arguments["export"] else 0
    blocks = sum(shape.blocks[source].parameters for source in call.depth.tuned) * trained.tuned
    tuned = blocks + trained.head * shape.head
    # Two of every tuned block: the model's, and the one that is plugged in.
    held = exported + blocks if exported else shape.outside + 2 * blocks
    return Cost(
        call.name,
        memory=shape.loaded_bytes * held,
        disk=shape.loaded_bytes * (tuned + exported) + SMALL_BYTES,
        on_gpu=False,
    )


def select(call: Priced) -> Cost:
    """A second copy of the files of the best of several tunings."""
    count = costs.trained_parameters(call.sizes.shape, call.depth, call.trained)
    return Cost(call.name, disk=costs.WIDE * count + SMALL_BYTES, on_gpu=False)


# In the order of the table.
RUN_COSTS: dict[str, CostOf] = {
    "check": fixed(CHECK_BYTES),
    "capture": capture,
    # As many blocks in all as capture runs, each alone.
    "single": capture,
    "iterative_drop": iterative_drop,
    "similarity": similarity,
    "stand_in_errors": stand_in_errors,
    "harmonizers": harmonizers,
    "cluster": fixed(SMALL_BYTES),
    "stand_ins": stand_ins,
    "emulate": emulate,
    # A second copy of the emulator, made on the CPU one weight at a time.
    "compress": emulate,
    "compress_by_gradient": compress_by_gradient,
    "distill": distill,
    "evaluate": evaluate,
    "tune": tune,
    "select": select,
    "plug_in": plug_in,
    "report": fixed(REPORT_BYTES),
}
