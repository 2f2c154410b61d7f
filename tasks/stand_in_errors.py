"""Stand-in errors: how far off is the linear stand-in of each run of blocks that a plan may remove?"""

from tasks.artifacts.stand_in_errors import StandInErrorsSummary, write_stand_in_errors
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), cores="all", gpu=True)
def stand_in_errors(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    longest: int,
    num_rows: int,
    split: Split,
    part: str,
    max_tokens: int,
    precision: str,
) -> StandInErrorsSummary:
    """Fit the stand-in of each run of at most `longest` blocks on the support set, and measure it on held-out rows.

    Writes `tasks.artifacts.stand_in_errors.StandInErrors`.

    Raises:
        InputError: as `fit_stand_ins`.
    """
    import torch

    from tasks.core.plan.spans import runs_up_to
    from tasks.core.stand_ins.fitting import fit_stand_ins
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part).rows[:num_rows]
    runs = runs_up_to(model.num_blocks, longest)
    _, found = fit_stand_ins(
        load_model(model, precision, work.device),
        rows,
        runs,
        max_tokens=work.pass_tokens(max_tokens, "support.max_tokens"),
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda batches: work.progress(batches, "batches"),
    )
    errors = torch.full((2, model.num_blocks, model.num_blocks), torch.inf)
    for each in work.progress(found, "runs", len(runs)):
        errors[:, each.run[0], each.run[1]] = torch.tensor([each.error, each.error_without])
    write_stand_in_errors(work.out, {"errors": errors[0], "errors_without": errors[1]})
    return {"num_blocks": model.num_blocks, "num_runs": len(runs), "num_rows": len(rows)}
