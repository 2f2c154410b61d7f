"""Iterative drop: take out the block most like the one below it, run the rest again, until as many as asked remain."""

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
) -> dict:
    """The blocks that go until `num_kept` remain, never block 0 nor a protected one.

    Writes `dropped.json`: their indices in the order in which they went. Errors: InputError if a state is not finite or
    the budget cannot be met.
    """
    import json

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
        max_tokens=max_tokens,
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda passes: work.progress(passes, "passes"),
    )
    (work.out / "dropped.json").write_text(json.dumps(dropped))
    return {"dropped": dropped, "num_passes": len(dropped), "num_rows": len(examples.rows[:num_rows])}
