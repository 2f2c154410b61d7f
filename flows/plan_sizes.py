"""What of a plan and of a way to tune decides costs, from the settings alone: before there is a plan."""

from dataclasses import replace
from typing import Any

from flows.arguments import make_variant
from flows.settings import Settings
from tasks.core.costs import Depth, Trained, factored_matrices
from tasks.core.distilling import segments
from tasks.core.plan import Plan
from tasks.core.shapes import Shape
from tasks.core.strategies import STRATEGIES, make_plan


def depth_of(chosen: dict[str, Any]) -> Depth:
    """What of a plan decides costs, from the arguments of the stage that makes it.

    A plan that follows from the number of blocks is made. Of others the lowest tuned block counts as the first, as in
    every published plan, which is the most that a tuning can cost; and each kept block as standing in for as many.
    """
    num_blocks, shares = chosen["num_blocks"], chosen["share"]
    strategy = STRATEGIES[chosen["strategy"]]
    if strategy.needs == "num_blocks":
        return depth_of_plan(make_plan(strategy.name, num_blocks, chosen))
    num_kept = chosen["num_kept"]
    num_tuned = len(chosen["tuned"]) if "tuned" in chosen else chosen["num_tuned"]
    if shares is None:
        return Depth(num_kept, num_kept, num_tuned)
    copies = round((num_blocks - num_kept) * num_tuned / num_kept) if shares == "all" or num_tuned == num_kept else 0
    return Depth(num_blocks, num_kept, num_tuned, min(chosen.get("tuned", (0,))), copies)


def depth_of_plan(plan: Plan) -> Depth:
    """What of this plan decides costs."""
    tuned = [position for position, (_, is_tuned) in enumerate(plan.layout) if is_tuned]
    frozen = [position for position, (source, _) in enumerate(plan.layout) if source in plan.frozen]
    copies = len(plan.layout) - len(tuned) - len(frozen)
    if not frozen:
        return Depth(len(plan.layout), len(plan.kept), len(tuned), tuned[0], copies)
    # The teacher runs up to the end of the last segment.
    taught = segments(plan)[-1].teacher[1] + 1
    return Depth(len(plan.layout), len(plan.kept), len(tuned), tuned[0], copies, frozen[0], taught)


def compressed(depth: Depth, settings: Settings, shape: Shape) -> Depth:
    """The same with the emulator's frozen blocks as the settings compress them; only factors change a size."""
    how = settings.compress.compression
    if how is None or how.method != "low_rank":
        return depth
    assert how.rank is not None
    return replace(depth, factored=factored_matrices(shape, how.rank))


def trained_of(settings: Settings, shape: Shape) -> Trained:
    """What is trained of an emulator. With `freeze_bottom` it is less, and the estimate the most it can be."""
    variant, tune = make_variant(settings), settings.tune
    size = variant.adapter_size
    matrices = {"lora": variant.lora_rank * shape.sides, "adapter": 2 * shape.width * size}.get(variant.method, 0)
    vectors = {"adapter": size + shape.width, "bitfit": shape.biases}.get(variant.method, 0)
    return Trained(
        extra=None if variant.method == "blocks" else matrices + vectors,
        products=matrices,
        behind=variant.method == "adapter",
        tuned=variant.trained != "frozen",
        frozen=variant.trained != "tuned",
        head=variant.lm_head,
        best=tune.eval_steps is not None,
        recompute=tune.gradient_checkpointing,
    )
