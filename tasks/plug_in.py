"""Plug in: check returned blocks against the full model and prepare them to run in it."""

from tasks.artifacts.plan import read_plan
from tasks.artifacts.tuning import EXPORT_FOLDER, PlugInSummary
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "safetensors"))
def plug_in(work: Work, model: ModelSource, plan: Ref, tuned: Ref, *, export: bool = False) -> dict:
    """Convert tuned blocks to the full model's number format, and measure how far each moved.

    Low-rank factors and biases are merged into whole blocks, adapters and prompts stay as they are. Writes
    `tuned.safetensors`, `variant.json` and `plan.json`; with `export` also `model/`, the plug-in as a Hugging Face
    folder, which cannot hold adapters and prompts.

    Raises:
        InputError: when names or shapes do not fit the model, a value is not finite, or adapters or a prompt would be
            exported.
    """
    from tasks.core.errors import InputError
    from tasks.core.tuning.returned import distances, plug_in_parts, validate_returned
    from tasks.models.loading import load_model, load_tokenizer
    from tasks.models.streamed import open_blocks
    from tasks.models.tuned_blocks import read_returned, write_returned

    how = read_plan(work.open(plan))
    returned = read_returned(work.open(tuned))
    admitted = returned.variant.admitted
    if export and admitted.method in ("adapter", "prompt"):
        raise InputError(
            f"export.plugged_model: a Hugging Face folder cannot hold what tune.method = {admitted.method!r} trains"
        )
    # Only what changes has to be in memory, unless the whole model is written.
    changed = () if admitted.method == "prompt" else how.tuned
    network = load_model(model, "stored") if export else open_blocks(model, changed, work.scratch)
    state = validate_returned(returned.tuned, network, how, returned.variant)
    moved = distances(state, network, how) if admitted.method == "blocks" else {}
    write_returned(work.out, how, admitted, state)
    if export:
        plug_in_parts(network, state, how, admitted).save_pretrained(work.out / EXPORT_FOLDER)
        load_tokenizer(model).save_pretrained(work.out / EXPORT_FOLDER)
    summary: PlugInSummary = {"num_tuned": len(how.tuned)}
    return {**summary, **{f"moved_block_{index}": value for index, value in moved.items()}}
