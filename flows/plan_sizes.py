"""What of a plan and of a way to tune decides costs, from the settings alone: before there is a plan."""

from typing import Any

from flows.settings import Settings
from tasks.core.costs import Depth, Trained
from tasks.core.shapes import Shape


def depth_of(chosen: dict[str, Any]) -> Depth:
    """What of a plan decides costs, from the arguments of the stage that makes it.

    Where the lowest tuned block is known from the plan alone, it counts; else it is the first, as in every published
    plan, which is the most that a tuning can cost.
    """
    shares, num_blocks = chosen.get("share") is not None, chosen["num_blocks"]
    kept, tuned = sorted(chosen.get("kept") or ()), sorted(chosen.get("tuned") or ())
    num_kept = len(kept) or chosen["num_kept"]
    num_tuned = len(tuned) or chosen["num_tuned"]
    lowest = 0
    if kept and tuned:
        lowest = tuned[0] if shares else kept.index(tuned[0])
    return Depth(num_blocks if shares else num_kept, num_kept, num_tuned, lowest, shares)


def trained_of(settings: Settings, shape: Shape) -> Trained:
    """What is trained of an emulator. With `freeze_bottom` it is less, and the estimate the most it can be."""
    tune = settings.tune.model_dump()
    size = tune.get("adapter_size", 0)
    extra = {
        "blocks": None,
        "lora": tune.get("lora_rank", 0) * shape.sides,
        "adapter": 2 * shape.width * size + size + shape.width,
        "bitfit": shape.vectors,
    }
    which = tune.get("trained", "tuned")
    return Trained(
        extra=extra[tune.get("method", "blocks")],
        tuned=which != "frozen",
        frozen=which != "tuned",
        head=tune.get("lm_head", False),
        best=settings.tune.eval_steps is not None,
        recompute=tune.get("gradient_checkpointing", False),
    )
