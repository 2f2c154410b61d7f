"""Lens: train an affine map from each block's states to the last block's, so that the model's head can read them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.artifacts.study.lens import LensFacts, LensSummary, write_curves
from tasks.core.tuning.settings import TrainSettings
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from tasks.core.batching import Example


@stage(packages=("torch", "transformers", "tokenizers", "accelerate", "lm_eval"), gpu=True)
def lens(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    settings: TrainSettings,
    num_rows: int,
    block: int,
    precision: str,
) -> dict:
    """Train a tuned lens (arXiv 2303.08112) on the task's first `num_rows` training rows; resumes if it was killed.

    task: rows of a task or plain text, in windows of at most `block` tokens; every token but a row's first counts.
    Writes the lens (`tasks.models.lens_files`) and `tasks.artifacts.study.lens.LensCurves`, measured on as many
    validation rows.

    Raises:
        InputError: when there are fewer than two rows, only one block, or a state that is not finite.
        DivergedError: when the loss or a gradient is not finite.
    """
    from tasks.core.study.lens import every_token
    from tasks.core.study.lens_training import TrainedLens
    from tasks.core.tuning.failures import Names
    from tasks.core.tuning.train import train
    from tasks.data.tokenize import load_examples
    from tasks.models.lens_files import write_lens
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    length, pad_id = min(block, model.context), tokenizer.pad_token_id or 0
    rows, held_out = (
        every_token(load_examples(task, split, tokenizer, length, limit=num_rows).rows[:num_rows])
        for split in ("train", "validation")
    )
    largest = settings.batch_size * max(row.num_tokens for row in rows)
    settings = replace(settings, max_tokens=work.pass_tokens(settings.max_tokens, "evaluate.max_tokens", largest))
    result = train(
        TrainedLens(load_model(model, "stored" if precision == "bfloat16" else precision)),
        rows,
        held_out if settings.eval_steps else [],
        settings,
        device=work.device,
        precision=precision,
        pad_id=pad_id,
        checkpoint=work.checkpoint(),
        on_metrics=lambda step, values: work.metric(step, **values),
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
        names=Names("study.lens_learning_rate", "evaluate.max_tokens"),
    )
    write_lens(work.out, result.state, model)
    measured = _measure(work, model, held_out, precision, max_tokens=settings.max_tokens, pad_id=pad_id)
    summary: LensSummary = {
        "num_steps": result.num_steps,
        "num_rows": len(rows),
        "num_held_out_rows": len(held_out),
        **measured,
    }
    return {**result.summary(), **summary}


def _measure(work: Work, model: ModelSource, rows: "list[Example]", precision: str, **options: Any) -> LensFacts:
    """Write the curves of the trained and of the logit lens; return their means over all blocks but the last.

    The model is loaded again, since the one that trained the lens has two number formats.
    """
    from tasks.core.study.lens import make_lens, measure_curves
    from tasks.models.lens_files import load_lens
    from tasks.models.loading import load_model

    network = load_model(model, precision, work.device)
    lenses = {"logit": make_lens(network), "tuned": load_lens(work.out, model, network)}
    curves = {name: measure_curves(network, each, rows, **options) for name, each in lenses.items()}
    tensors = {f"kl_{name}": each.kl.float() for name, each in curves.items()}
    tensors |= {f"agreement_{name}": each.agreement.float() for name, each in curves.items()}
    write_curves(work.out, tensors)
    return {
        "num_positions": curves["tuned"].num_positions,
        "mean_kl_logit": float(curves["logit"].kl[:-1].mean()),
        "mean_kl_tuned": float(curves["tuned"].kl[:-1].mean()),
    }
