"""Evaluate: score the full model, a plug-in, or an emulator before or after tuning."""

from typing import Any

from tasks.artifacts.scores import summarise_scores, write_scores
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval", "datasets"), gpu=True)
def evaluate(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    emulator: Ref | None = None,
    tuned: Ref | None = None,
    *,
    precision: str = "float32",
    max_tokens: int = 8192,
) -> dict[str, Any]:
    """Score a model on the task's scored split, without examples in the prompt; writes `scores.json`.

    emulator: score it instead of the full model. tuned: blocks to put into the full model or the emulator. precision:
    number format of the computation; max_tokens: padded tokens in one forward pass.
    """
    from tasks.data.scoring import score
    from tasks.models.loading import load_tokenizer
    from tasks.models.variants import load_variant, open_variant_streamed

    emulator_folder, tuned_folder = (work.open(ref) if ref else None for ref in (emulator, tuned))
    if work.streamed and emulator is None:
        variant, tensors = open_variant_streamed(model, tuned_folder, precision, work.first_device, work.scratch)
    else:
        variant, tensors = load_variant(model, emulator_folder, tuned_folder, precision, work.device), None
    scores = score(
        variant,
        load_tokenizer(model),
        task,
        max_length=model.context,
        max_tokens=work.pass_tokens(max_tokens, "evaluate.max_tokens"),
        progress=work.progress,
        tensors=tensors,
    )
    write_scores(work.out, scores)
    work.metric(None, **{scores.metric: scores.value})
    others = {name: value for name, value in scores.metrics.items() if name != scores.metric}
    return {**summarise_scores(scores), **others}
