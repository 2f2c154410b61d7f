"""What a model and a task are together, checked before anything is computed: all that bad input can break later."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.pass_limits import PassLimit, has_documents, require_fits, require_room_to_write
from tasks.data.rehearsal import rehearse_metrics
from tasks.data.sources import Split, TaskSource
from tasks.data.split_facts import split_facts
from tasks.data.token_ids import end_tokens
from tasks.data.tokenize import Examples, load_examples
from tasks.models.loading import load_tokenizer
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS: tuple[Split, ...] = ("train", "validation", "scored")


def check_inputs(model: ModelSource, task: TaskSource, limits: Sequence[PassLimit] = ()) -> dict[str, Any]:
    """Facts about the rows, tokenised as they will be trained on and scored; loads the tokenizer, not the model.

    limits: of single passes. InputError for the first row that cannot be used or that a pass cannot hold, and for a
    tokenizer that does not fit the model.
    """
    tokenizer = load_tokenizer(model)
    facts: dict[str, Any] = {
        "context": model.context,
        "num_blocks": model.num_blocks,
        "family": model.family,
    }
    largest, has_prompts = 0, True
    found: dict[Split, Examples] = {}
    facts |= _encoding_facts(model, task, tokenizer)
    for split in SPLITS:
        examples = found[split] = load_examples(task, split, tokenizer, model.context)
        for limit in limits:
            if limit.split == split:
                require_fits(task, examples, limit)
        facts |= {
            f"num_{split}_rows": examples.num_rows,
            f"num_{split}_examples": len(examples.rows),
            f"num_{split}_truncated": examples.num_truncated,
            f"longest_{split}": max(row.num_tokens for row in examples.rows),
            f"num_{split}_apart": examples.num_apart,
        }
        has_prompts = has_prompts and all(row.prompt_ids for row in examples.rows)
        largest = max(largest, *(max((*row.prompt_ids, *row.answer_ids)) for row in examples.rows))
    _require_vocabulary(model, largest)
    require_room_to_write(task, model.context)
    if task.kind == "lm_eval":
        rehearse_metrics(task)
    facts |= split_facts(task, found)
    return facts | {"has_prompts": has_prompts}


def _encoding_facts(model: ModelSource, task: TaskSource, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """end_tokens: special tokens that the tokenizer puts behind every text and that are left out.

    window: tokens of a window of a document, where the task has documents.
    """
    documents = {"window": task.window(model.context)} if has_documents(task) else {}
    return {"end_tokens": end_tokens(tokenizer), **documents}


def _require_vocabulary(model: ModelSource, largest: int) -> None:
    """InputError if the tokenizer knows tokens that the model has no embedding for."""
    from tasks.models.folder_facts import read_config
    from tasks.models.vocabulary import declared_rows, stored_rows

    folder = Path(model.path)
    size = stored_rows(folder) or declared_rows(read_config(folder))
    if size is not None and largest >= size:
        raise InputError(
            f"{model.name}: its tokenizer gives token {largest}, its embedding has {size} rows (in its files):"
            " the tokenizer is not this model's"
        )
