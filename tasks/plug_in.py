"""Plug in: check returned blocks against the full model and make them ready to serve there."""

from tasks.store.artifacts import Ref
from tasks.store.models import ModelSource
from tasks.store.stage import MODEL_CODE, stage
from tasks.store.work import Work


@stage(packages=("torch", "transformers", "safetensors"), code=MODEL_CODE)
def plug_in(work: Work, model: ModelSource, plan: Ref, tuned: Ref, *, export: bool = False) -> dict:
    """Tuned blocks in the full model's number format, with how far each moved.

    Writes `tuned.safetensors` and `plan.json`; with `export` also `model/`, the full model with the blocks plugged in,
    as a Hugging Face folder. Errors: InputError when names, shapes or finiteness do not fit the model.
    """
    import shutil

    from safetensors.torch import load_file, save_file

    from tasks.core.blocks import plug_in as plug_into
    from tasks.core.plan import Plan
    from tasks.core.plugging import admit, distances
    from tasks.store.models import load_model, load_tokenizer

    how = Plan.from_json((work.open(plan) / "plan.json").read_text())
    network = load_model(model, "stored")
    state = admit(load_file(work.open(tuned) / "tuned.safetensors"), network, how)
    moved = distances(state, network, how)
    save_file(state, work.out / "tuned.safetensors")
    shutil.copyfile(work.open(plan) / "plan.json", work.out / "plan.json")
    if export:
        plug_into(network, state, how).save_pretrained(work.out / "model")
        load_tokenizer(model).save_pretrained(work.out / "model")
    return {"num_tuned": len(how.tuned), **{f"moved_block_{index}": value for index, value in moved.items()}}
