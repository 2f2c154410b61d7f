"""Linear stand-ins fitted on the rows of a support set, for the stages that make or measure them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.data.sources import Split, TaskSource
from tasks.engine.work import Work
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from tasks.core.stand_ins.fitting import StandIn


def fit_on_rows(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    runs: Sequence[tuple[int, int]],
    *,
    num_rows: int,
    split: Split,
    part: str,
    max_tokens: int,
    precision: str,
) -> "tuple[list[str], Iterator[StandIn], int]":
    """Fit the stand-ins of these runs on the first rows of a split.

    Returns the paths and the stand-ins of `fit_stand_ins`, and the number of rows.

    Raises:
        InputError: as `fit_stand_ins`.
    """
    from tasks.core.stand_ins.fitting import fit_stand_ins
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part).rows[:num_rows]
    paths, found = fit_stand_ins(
        load_model(model, precision, work.device),
        rows,
        runs,
        max_tokens=max_tokens,
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda batches: work.progress(batches, "batches"),
    )
    return paths, found, len(rows)
