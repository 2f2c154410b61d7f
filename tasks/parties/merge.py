"""Merge: one set of tuned blocks from those that several data owners sent back."""

from typing import Any

from tasks.core.merging.method import Merging
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "safetensors"))
def merge(work: Work, model: ModelSource, tunings: list[Ref], *, merging: Merging) -> dict[str, Any]:
    """Merge the changes of the full model's blocks by several tunings, parameter by parameter.

    Writes a tuning's folder with whole blocks in float32, a few rows of a tensor at a time.

    Raises:
        InputError: when the tunings are of several plans, or one trained adapters, a prompt or the head.
    """
    from tasks.exchange.merging import write_merged

    write_merged(model, [work.open(each) for each in tunings], merging, work.out)
    return {"num_tunings": len(tunings)}
