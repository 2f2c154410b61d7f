"""Iterative drop: remove the block most similar to the one below it and run the rest again, until enough are gone."""

from tasks.artifacts.dropped_blocks import DroppedSummary, write_dropped
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), cores="all", gpu=True)
def iterative_drop(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    num_kept: int,
    protected: tuple[int, ...],
    estimator: str,
    num_rows: int,
    split: Split,
    part: str,
    pooling: str,
    final_norm: bool,
    max_tokens: int,
    precision: str,
) -> DroppedSummary:
    """Drop blocks one after another until `num_kept` remain, never block 0 or a protected one.

    Writes the indices of the dropped blocks, in order (`tasks.artifacts.dropped_blocks`).

    Raises:
        InputError: when a state is not finite, or the budget cannot be met.
    """
    from tasks.core.study.states_of_variants import base_device, drop_blocks
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    examples = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part)
    dropped = drop_blocks(
        load_model(model, precision, base_device(work.device)),
        examples.rows[:num_rows],
        num_kept,
        estimator=estimator,
        protected=protected,
        device=work.device,
        pooling=pooling,
        with_final_norm=final_norm,
        max_tokens=work.pass_tokens(max_tokens, "support.max_tokens"),
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda passes: work.progress(passes, "passes"),
    )
    write_dropped(work.out, dropped)
    return {"dropped": dropped, "num_passes": len(dropped), "num_rows": len(examples.rows[:num_rows])}
