"""The cost of each stage that only a search has, from the arguments with which the flow calls it."""

from flows.cost.priced import SMALL_BYTES, Cost, Priced
from flows.cost.stage_costs import CostOf, fixed, scored
from tasks.core.costs import analyses
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Trained

# Of the tables and the picture, as in the demo's search.
FRONTIER_BYTES = 100_000


def proxies(call: Priced) -> Cost:
    """The support set through the full model and its emulator, which share tensors if there is no `emulator`."""
    sizes, given = call.sizes, call.arguments
    shape, emulator = sizes.shape, given.get("emulator")
    made, trained = (emulator or given["plan"]).depth, Trained()
    passes = sizes.passes(sizes.rows(given["split"], given["num_rows"]), given["max_tokens"])
    flops = analyses.proxy_flops(shape, made, passes)
    held = shape.parameters + (costs.emulator_parameters(shape, made) if emulator else 0)
    size, count = costs.FORMATS[sizes.precision], costs.trained_parameters(shape, made, trained)
    # The gradients of a pass, and the sums of both models in float32.
    memory: float = size * (held + count) + 2 * costs.WIDE * count
    depths = (analyses.full_depth(shape, made.tuned), made)
    memory += passes.largest * max(costs.saved_bytes(shape, depth, size, trained) for depth in depths)
    return Cost(call.name, flops, memory, SMALL_BYTES)


def validate(call: Priced) -> Cost:
    """The validation rows through the emulator, or through the full model where there is none."""
    return scored(call, call.sizes.workload.validation)


SEARCH_COSTS: dict[str, CostOf] = {"proxies": proxies, "validate": validate, "frontier": fixed(FRONTIER_BYTES)}
