"""The model and the rows to which linear stand-ins are fitted, for the stages that make or measure them."""

from typing import TYPE_CHECKING, Any

from tasks.data.sources import Split, TaskSource
from tasks.engine.work import Work
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.core.batching import Example


def model_and_rows(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    num_rows: int,
    split: Split,
    part: str,
    precision: str,
) -> "tuple[PreTrainedModel, list[Example], dict[str, Any]]":
    """Return the model, the first rows of a split, and the options of a pass over them."""
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    rows = load_examples(task, split, tokenizer, model.context, limit=num_rows, part=part).rows[:num_rows]
    options = {"pad_id": tokenizer.pad_token_id or 0, "progress": lambda batches: work.progress(batches, "batches")}
    return load_model(model, precision, work.device), rows, options
