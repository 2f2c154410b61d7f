"""Stand-in errors: how far off is the linear stand-in of each run of blocks that a plan may remove?"""

from typing import Any

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
        InputError: as `measure_stand_ins`.
    """
    import torch

    from tasks.core.plan.spans import runs_up_to
    from tasks.core.stand_ins.fitting import measure_stand_ins
    from tasks.data.stand_ins import model_and_rows

    chosen: dict[str, Any] = {"num_rows": num_rows, "split": split, "part": part, "precision": precision}
    runs = runs_up_to(model.num_blocks, longest)
    network, rows, options = model_and_rows(work, model, task, **chosen)
    max_tokens = work.pass_tokens(max_tokens, "support.max_tokens")
    found = measure_stand_ins(network, rows, runs, max_tokens=max_tokens, **options)
    effects, errors, without = torch.full((3, model.num_blocks, model.num_blocks), torch.inf)
    for each in work.progress(found, "runs", len(runs)):
        effects[each.run], errors[each.run], without[each.run] = each.effect, each.error, each.error_without
    write_stand_in_errors(work.out, {"effects": effects, "errors": errors, "errors_without": without})
    return {"num_blocks": model.num_blocks, "num_runs": len(runs), "num_rows": len(rows)}
