"""The properties of a plan and a tuning method that decide costs, from the settings alone, before there is a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.settings.run import Settings
from tasks.core.costs.block_shapes import BlockShape
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.plan.layout import REPEATING
from tasks.core.plan.registry import STRATEGIES, make_plan
from tasks.core.tuning.method import TuningMethod

Layout = tuple[tuple[int, bool], ...]


def depth_of(chosen: Mapping[str, Any], shape: Shape) -> Depth:
    """Return the depth of a plan, which decides its costs, from the arguments of the stage that makes it.

    A plan that follows from the number of blocks is made. For others the estimate assumes that the lowest tuned block
    is the first one, as in every published plan (the largest cost of a tuning), that all kept blocks stand in for
    equally many, and that, where blocks differ, those with the most parameters are kept and tuned.
    """
    num_blocks, shares = chosen["num_blocks"], chosen["share"]
    strategy = STRATEGIES[chosen["strategy"]]
    if strategy.needs == "num_blocks":
        return Depth.of(make_plan(strategy.name, num_blocks, chosen))
    largest = sorted(range(num_blocks), key=lambda block: -shape.blocks[block].parameters)
    if "tuned" in chosen:
        tuned = sorted(chosen["tuned"])
        largest = tuned + [block for block in largest if block not in tuned]
    kept = sorted(largest[: chosen["num_kept"]])
    tuned = sorted(chosen["tuned"] if "tuned" in chosen else largest[: chosen["num_tuned"]])
    if shares not in REPEATING:
        return Depth(tuple((source, source in tuned) for source in kept))
    lowest = min(tuned) if "tuned" in chosen else 0
    return Depth(_shared_layout(num_blocks, kept, tuned, shares == "all"), lowest)


def _shared_layout(num_blocks: int, kept: Sequence[int], tuned: Sequence[int], every: bool) -> Layout:
    """Run kept blocks at equally many positions; without `every`, tuned ones at one each if there are frozen ones."""
    frozen = [source for source in kept if source not in tuned]
    once = [] if every or not frozen else list(tuned)
    repeated = [source for source in kept if source not in once]
    count = num_blocks - len(once)
    sources = sorted([*once, *(repeated[place * len(repeated) // count] for place in range(count))])
    firsts = {source: sources.index(source) for source in tuned}
    return tuple((source, firsts.get(source) == position) for position, source in enumerate(sources))


def compressed(depth: Depth, settings: Settings) -> Depth:
    """Return the depth with compressed frozen blocks; pruning and quantising change no size."""
    how = settings.compress.compression
    if how is None or how.method in ("prune", "quantise"):
        return depth
    channels = how.channels if how.method == "gradot" else None
    attention_only = how.method == "low_rank" and how.parts == "attention"
    return replace(depth, rank=how.rank, channels=channels, attention_only=attention_only)


def trained_of(settings: Settings, shape: Shape) -> Trained:
    """Return what is trained of an emulator; an upper bound with `freeze_bottom`."""
    variant, tune = settings.tune.tuning_method, settings.tune
    found = [_parts_of(block, shape.width, variant) for block in shape.blocks]
    return Trained(
        extra=None if variant.method == "blocks" else tuple(map(sum, found)),
        products=tuple(matrices for matrices, _ in found),
        behind=variant.method == "adapter",
        tuned=variant.trained != "frozen" and variant.method != "prompt",
        frozen=variant.trained != "tuned",
        head=variant.lm_head,
        inputs=variant.num_virtual,
        best=tune.eval_steps is not None,
        recompute=tune.gradient_checkpointing,
    )


def _parts_of(block: BlockShape, width: int, variant: TuningMethod) -> tuple[int, int]:
    """Count the (matrix, vector) elements that a method trains in or beside a block, without the whole block's own."""
    size = variant.adapter_size
    matrices = {"lora": variant.lora_rank * block.sides, "adapter": 2 * width * size}.get(variant.method, 0)
    vectors = {"adapter": size + width, "bitfit": block.biases}.get(variant.method, 0)
    return matrices, vectors
