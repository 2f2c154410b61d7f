"""Stand-ins: fit the linear maps that stand in for the removed blocks of a plan."""

import logging
from typing import Any

from tasks.artifacts.plan import read_plan
from tasks.artifacts.stand_ins import StandInsSummary, write_stand_ins
from tasks.core.plan.spans import named_runs, require_stand_ins
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

logger = logging.getLogger(__name__)


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), cores="all", gpu=True)
def stand_ins(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    plan: Ref,
    *,
    num_rows: int,
    split: Split,
    part: str,
    max_tokens: int,
    precision: str,
) -> StandInsSummary:
    """Fit a map on the support set for each run of removed blocks that follows a frozen block.

    A run behind a tuned block, or in front of all kept ones, is only removed, and the log names it: what a data owner
    returns must stay an update of the full model's block. Writes the files of `tasks.artifacts.stand_ins`.

    Raises:
        InputError: when blocks are removed, but none of them behind a frozen block, or as `fit_stand_ins`.
    """
    import torch

    from tasks.core.stand_ins.fitting import fit_stand_ins
    from tasks.data.stand_ins import model_and_rows

    how = read_plan(work.open(plan))
    require_stand_ins(how)
    runs = how.replaced_runs
    rest = [run for run in how.removed_runs if run not in runs]
    if rest:
        logger.warning("no linear stand-in for removed blocks %s: they are only removed", named_runs(rest, how.tuned))
    chosen: dict[str, Any] = {"num_rows": num_rows, "split": split, "part": part, "precision": precision}
    network, rows, options = model_and_rows(work, model, task, **chosen)
    max_tokens = work.pass_tokens(max_tokens, "support.max_tokens")
    paths, fitted = fit_stand_ins(network, rows, runs, max_tokens=max_tokens, **options)
    found = list(fitted)
    errors, without = [each.error for each in found], [each.error_without for each in found]
    fronts, lasts = [first for first, _ in runs], [last for _, last in runs]
    write_stand_ins(
        work.out,
        {
            "fronts": fronts,
            "lasts": lasts,
            "paths": [paths[front] for front in fronts],
            "errors": errors,
            "errors_without": without,
        },
        torch.stack([each.matrix for each in found]) if found else torch.empty(0, 0, 0),
    )
    return {
        "num_runs": len(runs),
        "error": sum(errors),
        "error_without": sum(without),
        "only_removed": [[front + 1, last] for front, last in rest],
        "num_rows": len(rows),
    }
