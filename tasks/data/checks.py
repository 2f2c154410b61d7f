"""Check a model and a task together before anything is computed, for all bad input that could break a later stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.few_shot_prompts import few_shot_facts
from tasks.data.pass_limits import PassLimit, has_documents, require_fits, require_room_to_write
from tasks.data.rehearsal import rehearse_metrics
from tasks.data.sources import Split, TaskSource
from tasks.data.split_facts import split_facts
from tasks.data.token_ids import end_tokens
from tasks.data.tokenize import Examples, load_examples
from tasks.models.folder_facts import gguf_types, read_config
from tasks.models.loading import load_tokenizer
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS: tuple[Split, ...] = ("train", "validation", "scored")


def check_inputs(model: ModelSource, task: TaskSource, limits: Sequence[PassLimit] = ()) -> dict[str, Any]:
    """Return facts about the rows, tokenised as they are for training and scoring; load the tokenizer, not the model.

    limits: bounds on the tokens of single passes.

    Raises:
        InputError: when a row cannot be used or does not fit into one pass (the first such row is named), and when the
            tokenizer does not fit the model.
    """
    tokenizer = load_tokenizer(model)
    facts: dict[str, Any] = {
        "context": model.context,
        "num_blocks": model.num_blocks,
        "family": model.family,
    }
    if types := gguf_types(read_config(Path(model.path))):
        facts["gguf_types"] = types
    largest, has_prompts = 0, True
    found: dict[Split, Examples] = {}
    facts |= _encoding_facts(model, task, tokenizer)
    for split in SPLITS:
        examples = found[split] = load_examples(task, split, tokenizer, model.context)
        for limit in limits:
            if limit.split == split:
                require_fits(task, examples, limit)
            if limit.split == split and limit.num_fewshot:
                facts |= few_shot_facts(task, tokenizer, model.context, limit)
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
    """Return facts about the encoding of text.

    end_tokens: special tokens that the tokenizer appends to every text and that are left out; window: tokens of a
    window of a document, for tasks with documents.
    """
    documents = {"window": task.window(model.context)} if has_documents(task) else {}
    return {"end_tokens": end_tokens(tokenizer), **documents}


def _require_vocabulary(model: ModelSource, largest: int) -> None:
    """Check that the model has an embedding for every token of the rows.

    Raises:
        InputError: when the largest token id is outside the embedding.
    """
    from tasks.models.folder_facts import read_config
    from tasks.models.vocabulary import declared_rows, stored_rows

    folder = Path(model.path)
    size = stored_rows(folder) or declared_rows(read_config(folder))
    if size is not None and largest >= size:
        raise InputError(
            f"{model.name}: its tokenizer gives token {largest}, its embedding has {size} rows (in its files):"
            " the tokenizer is not this model's"
        )
