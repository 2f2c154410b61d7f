"""Examine: compare tuned blocks that came back with those of the full model, before anybody accepts them."""

from tasks.artifacts.examined import EXAMINED_FILE, Examined
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "safetensors"))
def examine(work: Work, model: ModelSource, tuned: Ref, plugged: Ref) -> Examined:
    """Measure how far each block moved and on how few directions, and name what honest tunings do not do.

    tuned: as it came back; plugged: of `plug_in`. Adapters and prompts change no block. Writes `changes.json`.

    Raises:
        RefusedError: when a block moved by its own norm or further.
    """
    from tasks.core.errors import RefusedError
    from tasks.core.tuning.changes import alarms, measure_changes, not_tunings
    from tasks.core.tuning.returned import tuned_parameters
    from tasks.models.streamed import open_blocks
    from tasks.models.tuned_blocks import read_returned

    method, whole = read_returned(work.open(tuned)).variant, read_returned(work.open(plugged))
    found: Examined = {"moved": {}, "direction": {}, "alarms": []}
    if whole.variant.method == "blocks":
        blocks = tuned_parameters(open_blocks(model, whole.plan.tuned, work.scratch), whole.plan)
        changes = measure_changes(blocks, whole.tuned)
        if moved := not_tunings(changes):
            raise RefusedError(f"tuned blocks {moved} moved by their own norm or further, which no tuning does")
        found["moved"] = {str(block): change.moved for block, change in changes.items()}
        found["direction"] = {str(block): change.direction for block, change in changes.items()}
        found["alarms"] = alarms(changes, method.method == "lora")
    EXAMINED_FILE.write(work.out, found)
    return found
