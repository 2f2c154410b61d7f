"""The cost of each stage that only a study has, from the arguments with which the flow calls it."""

from flows.cost import study_pass_costs as passes
from flows.cost.priced import SMALL_BYTES, Cost, Priced, count_rows, ran
from flows.cost.stage_costs import CostOf
from tasks.core.costs import analyses
from tasks.core.costs import totals as costs

# Of the page and a figure with its data, as in the demo's study.
PAGE_BYTES, ANALYSIS_BYTES = 500_000, 400_000


def structure(call: Priced) -> Cost:
    """Similarities of resampled rows, computed on the CPU."""
    given, shape = call.arguments, call.sizes.shape
    num_rows, draws = count_rows(given["states"]), given["num_bootstraps"]
    flops = analyses.structure_flops(shape, num_rows, draws, given.get("num_samples", ()))
    disk = costs.WIDE * shape.num_blocks * (3 * shape.num_blocks + 8)
    return Cost(call.name, flops, disk=disk + SMALL_BYTES, on_gpu=False)


def cross(call: Priced) -> Cost:
    """CKA between all states of two captures, computed on the CPU."""
    first, second = call.arguments["first"], call.arguments["second"]
    states = (_num_states(first), _num_states(second))
    flops = analyses.cross_flops(first.sizes.shape, second.sizes.shape, states, count_rows(first))
    disk = costs.WIDE * costs.NUM_CROSS_CKA * states[0] * states[1]
    return Cost(call.name, flops, disk=disk + SMALL_BYTES, on_gpu=False)


def dataset_distances(call: Priced) -> Cost:
    """Distances between the rows of every two data sets, computed on the CPU."""
    num_rows = [count_rows(states) for states in call.arguments["states"]]
    disk = 3 * costs.WIDE * sum(num_rows)
    return Cost(call.name, analyses.distance_flops(call.sizes.shape, num_rows), disk=disk + SMALL_BYTES, on_gpu=False)


def weights(call: Priced) -> Cost:
    """Inner products of the blocks' matrices, computed on the CPU from the files."""
    shape = call.sizes.shape
    num_matrices = max(len(block.linears) for block in shape.blocks)
    disk = costs.WIDE * num_matrices * shape.num_blocks * (2 * shape.num_blocks + 3)
    return Cost(call.name, analyses.weight_flops(shape), disk=disk + SMALL_BYTES, on_gpu=False)


def findings(call: Priced) -> Cost:
    """The page, with the figures of every analysis."""
    num_analyses = sum(len(cell["analyses"]) for cell in call.arguments["cells"])
    return Cost(call.name, disk=PAGE_BYTES + ANALYSIS_BYTES * num_analyses, on_gpu=False)


def _num_states(states: Priced) -> int:
    return len(ran(states.arguments["model"], states.sizes).layout) + 1


# In the order of the table.
STUDY_COSTS: dict[str, CostOf] = {
    "structure": structure,
    "cross": cross,
    "dataset_distances": dataset_distances,
    "weights": weights,
    "lens": passes.lens,
    "trajectory": passes.trajectory,
    "distances": passes.distances,
    "importance": passes.importance,
    "landscape": passes.landscape,
    "findings": findings,
}
