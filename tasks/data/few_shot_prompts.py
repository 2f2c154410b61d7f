"""Check prompts with examples in front of the row, which are much longer than the rows themselves."""

from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval.definitions import most_written
from tasks.data.pass_limits import PassLimit
from tasks.data.sources import TaskSource
from tasks.data.token_ids import encode, encode_pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def few_shot_facts(
    task: TaskSource, tokenizer: "PreTrainedTokenizerBase", context: int, limit: PassLimit
) -> dict[str, int]:
    """Return the number of examples in front of each scored row, and of requests that lose some of their beginning.

    context: tokens that the model takes; limit: of the passes of scoring.

    Raises:
        InputError: when the task takes no examples or has fewer, or a prompt does not fit into one pass.
    """
    from tasks.data.lm_eval_rows import built_task

    bound = task.longest(context)
    requests = built_task(task, "scored", limit.num_fewshot).instances
    lengths = [_num_tokens(tokenizer, request) for request in requests]
    longest = min(max(lengths), bound)
    if longest > limit.max_tokens:
        raise InputError(
            f"task {task.name!r}: with evaluate.num_fewshot = {limit.num_fewshot}, a request takes {longest} tokens in"
            f" one pass, but {limit.setting} = {limit.max_tokens}: raise it where memory allows, or take fewer examples"
        )
    cut = sum(length > bound for length in lengths)
    return {"num_fewshot": limit.num_fewshot, "num_fewshot_requests": len(lengths), "num_fewshot_truncated": cut}


def _num_tokens(tokenizer: "PreTrainedTokenizerBase", request: Any) -> int:
    """Return the tokens of a prompt and of a given answer, or of a prompt and all that the model may write."""
    before, after = request.args
    if isinstance(after, str):
        return sum(map(len, encode_pair(tokenizer, before, after))) - 1
    return len(encode(tokenizer, before)) + most_written(after)
