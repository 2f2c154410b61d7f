"""Check rows against settings that bound the tokens of one forward pass; a single longer row would exceed the bound."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval import definitions
from tasks.data.lm_eval.definitions import most_written
from tasks.data.sources import Split, TaskSource

if TYPE_CHECKING:
    from tasks.core.batching import Example
    from tasks.data.tokenize import Examples


@dataclass(frozen=True)
class PassLimit:
    """Bound on the tokens of passes: rows go through a model in passes of at most `max_tokens` padded tokens.

    setting: the name of max_tokens. split, num_rows: the first examples of a split, all by default. part: the part of
    an example that is run. num_tokens: most tokens of an example that are run. choices: every choice of a row is run.
    num_fewshot: other rows in front of each row. in_front: virtual tokens in front of each row.
    """

    setting: str
    max_tokens: int
    split: Split
    num_rows: int | None = None
    part: str = "prompt+answer"
    num_tokens: int | None = None
    choices: bool = False
    num_fewshot: int = 0
    in_front: int = 0


def require_fits(task: TaskSource, examples: "Examples", limit: PassLimit) -> None:
    """Check that each row of the limit's split fits into one pass.

    Raises:
        InputError: for the first row that does not.
    """
    shown = list(zip(examples.rows, examples.longest, strict=True))[: limit.num_rows]
    for example, longest in shown:
        tokens = limit.in_front + (longest if limit.choices else _num_run(example, limit.part))
        if min(tokens, limit.num_tokens or tokens) > limit.max_tokens:
            raise InputError(
                f"task {task.name!r}, {limit.split} row {example.row} takes {tokens} tokens in one pass, but"
                f" {limit.setting} = {limit.max_tokens}: raise it where memory allows, set task.max_length ="
                f" {limit.max_tokens} (a longer prompt loses its beginning, a longer document becomes several windows),"
                " or leave the row out"
            )


def require_room_to_write(task: TaskSource, context: int) -> None:
    """Check that a model that generates its answers has room for a prompt.

    Raises:
        InputError: when the answer may take all tokens.
    """
    definition = _definition(task)
    if definition.get("output_type") != "generate_until":
        return
    written = most_written(definition.get("generation_kwargs") or {})
    bound = task.longest(context)
    if written >= bound:
        takes = f"task.max_length = {bound}" if bound < context else f"the model takes {bound}"
        raise InputError(
            f"task {task.name!r} lets the model write up to {written} tokens, but {takes}: none is left for a prompt."
            " Lower max_gen_toks under generation_kwargs in a definition of your own, or raise the other"
        )


def has_documents(task: TaskSource) -> bool:
    """Return whether rows are scored as a whole: plain text, and lm-eval's perplexity tasks."""
    return task.kind == "text" or _definition(task).get("output_type") == "loglikelihood_rolling"


def _definition(task: TaskSource) -> dict[str, Any]:
    return definitions.merged(Path(task.yaml)) if task.yaml else {}


def _num_run(example: "Example", part: str) -> int:
    if part == "prompt+answer":
        return example.num_tokens
    return len(example.prompt_ids if part == "prompt" else example.answer_ids)
