"""Tune: train the tuned blocks inside the emulator, on data that never leaves its owner."""

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.store.lm_tasks import TaskSource
from tasks.store.models import ModelSource
from tasks.store.stage import stage
from tasks.store.work import Work


@stage(packages=("torch", "transformers", "tokenizers", "accelerate", "safetensors"), gpu=True)
def tune(
    work: Work,
    task: TaskSource,
    plan: Ref,
    *,
    emulator: Ref | None = None,
    model: ModelSource | None = None,
    settings: dict,
    precision: str,
) -> dict:
    """Train on the task's training split; the emulator, or with `model` every block of the full model.

    settings: fields of `tasks.core.training.TrainSettings`. Writes `tuned.safetensors` (`"{block}.{parameter}"` to
    float32) and `plan.json`, nothing else of the model. Errors: DivergedError when loss or gradient is not finite.
    """
    import shutil

    from safetensors.torch import save_file

    from tasks.core.blocks import tuned_state
    from tasks.core.plan import Plan
    from tasks.core.training import TrainSettings, train
    from tasks.store.checkpoints import CheckpointFile
    from tasks.store.lm_tasks import load_examples

    how = Plan.from_json((work.open(plan) / "plan.json").read_text())
    network, tokenizer, context = _network(work, emulator, model, how, precision)
    chosen = TrainSettings(**settings)
    rows = load_examples(task, "train", tokenizer, context)
    validation = load_examples(task, "validation", tokenizer, context) if chosen.eval_steps else None
    result = train(
        network,
        how,
        rows.rows,
        validation.rows if validation else [],
        chosen,
        device=work.device,
        precision=precision,
        pad_id=tokenizer.pad_token_id,
        checkpoint=CheckpointFile(work.scratch / "checkpoint.safetensors"),
        on_metrics=lambda step, values: work.metric(step, **values),
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
    )
    state = {name: tensor.contiguous() for name, tensor in tuned_state(network, how).items()}
    save_file(state, work.out / "tuned.safetensors")
    shutil.copyfile(work.open(plan) / "plan.json", work.out / "plan.json")
    return {**result.summary(), "num_rows": len(rows.rows), "num_truncated": rows.num_truncated}


def _network(work: Work, emulator: Ref | None, model: ModelSource | None, plan, precision: str):
    """The network to train, its tokenizer and its longest context."""
    from tasks.core.blocks import with_layout
    from tasks.store.models import context_of, load_model, load_tokenizer, tokenizer_of
    from tasks.store.weights import load_emulator

    if emulator is not None:
        folder = work.open(emulator)
        network = load_emulator(folder, precision=precision)
        return network, tokenizer_of(folder), context_of(folder)
    if model is None:
        raise InputError("tune needs an emulator or a model")
    return with_layout(load_model(model, precision=precision), plan), load_tokenizer(model), model.context
