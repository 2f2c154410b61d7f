"""Settings that bound the tokens of one forward pass, as promises about rows: a single longer row would break them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval import definitions
from tasks.data.sources import Split, TaskSource

if TYPE_CHECKING:
    from tasks.core.batching import Example
    from tasks.data.tokenize import Examples

# How lm-eval's definitions name the most tokens that a model writes, and its own value where they name none.
WRITTEN = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
MAX_WRITTEN = 256


@dataclass(frozen=True)
class PassLimit:
    """Rows that go through a model in passes of at most `max_tokens` padded tokens.

    setting: the name of max_tokens. split, num_rows: the first examples of a split, all by default. part: what of an
    example is run. num_tokens: of a longer example only so many are run. choices: every choice of a row is run.
    """

    setting: str
    max_tokens: int
    split: Split
    num_rows: int | None = None
    part: str = "prompt+answer"
    num_tokens: int | None = None
    choices: bool = False


def require_fits(task: TaskSource, examples: "Examples", limit: PassLimit) -> None:
    """Raises: InputError for the first row of the limit's split that one pass cannot hold."""
    shown = list(zip(examples.rows, examples.longest, strict=True))[: limit.num_rows]
    for example, longest in shown:
        tokens = longest if limit.choices else _num_run(example, limit.part)
        if min(tokens, limit.num_tokens or tokens) > limit.max_tokens:
            raise InputError(
                f"task {task.name!r}, {limit.split} row {example.row} takes {tokens} tokens in one pass, but"
                f" {limit.setting} = {limit.max_tokens}: raise it where memory allows, set task.max_length ="
                f" {limit.max_tokens} (a longer prompt loses its beginning, a longer document becomes several windows),"
                " or leave the row out"
            )


def require_room_to_write(task: TaskSource, context: int) -> None:
    """Raises: InputError where a model that writes its answers has no token left for a prompt."""
    definition = _definition(task)
    if definition.get("output_type") != "generate_until":
        return
    named = definition.get("generation_kwargs") or {}
    written = next((int(named[name]) for name in WRITTEN if named.get(name) is not None), MAX_WRITTEN)
    bound = task.longest(context)
    if written >= bound:
        takes = f"task.max_length = {bound}" if bound < context else f"the model takes {bound}"
        raise InputError(
            f"task {task.name!r} lets the model write up to {written} tokens, but {takes}: none is left for a prompt."
            " Lower max_gen_toks under generation_kwargs in a definition of your own, or raise the other"
        )


def has_documents(task: TaskSource) -> bool:
    """Whether rows are scored as a whole: plain text, and lm-eval's perplexity tasks."""
    return task.kind == "text" or _definition(task).get("output_type") == "loglikelihood_rolling"


def _definition(task: TaskSource) -> dict[str, Any]:
    return definitions.merged(Path(task.yaml)) if task.yaml else {}


def _num_run(example: "Example", part: str) -> int:
    if part == "prompt+answer":
        return example.num_tokens
    return len(example.prompt_ids if part == "prompt" else example.answer_ids)
