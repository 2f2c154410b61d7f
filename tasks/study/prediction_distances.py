"""Distances: measure distances between the predictions that a lens reads behind every two blocks."""

from typing import Any

from tasks.artifacts.study.prediction_distances import DistancesSummary, write_distances
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def distances(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    lens: Ref | None = None,
    *,
    num_rows: int,
    split: Split,
    num_tokens: int,
    max_tokens: int,
    precision: str,
) -> dict:
    """Compute functional distances between all blocks, means over `num_tokens` positions in the first `num_rows` rows.

    lens: a tuned lens of this model; by default the logit lens. max_tokens: padded tokens in one forward pass.

    Raises:
        InputError: when there are fewer than two rows or positions, a number is not finite, or the lens is of another
            model.
    """
    from tasks.core.study.lens import every_token
    from tasks.core.study.predictions import functional_distances
    from tasks.data.tokenize import load_examples
    from tasks.models.lens_files import chosen_lens
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = every_token(load_examples(task, split, tokenizer, model.context, limit=num_rows).rows[:num_rows])
    network = load_model(model, precision, work.device)
    options: Any = {
        "max_tokens": work.pass_tokens(max_tokens, "evaluate.max_tokens"),
        "pad_id": tokenizer.pad_token_id or 0,
    }
    options["progress"] = lambda batches: work.progress(batches, "batches")
    reader = chosen_lens(work.open(lens) if lens else None, model, network)
    found = functional_distances(network, reader, rows, num_tokens, **options)
    means = found.means()
    write_distances(work.out, {name: matrix.float() for name, matrix in means.items()})
    summary: DistancesSummary = {
        "lens": "logit" if lens is None else "tuned",
        "num_blocks": found.num_distributions,
        "num_rows": len(rows),
        "split": split,
        "num_positions": found.num_positions,
    }
    return {**summary, **{f"adjacent_{name}": float(matrix.diagonal(1).mean()) for name, matrix in means.items()}}
