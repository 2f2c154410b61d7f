"""Measure a task's rows in tokens, with the model's tokenizer or, without one, by the length of the text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.core.costs.workloads import Lengths, Workload
from tasks.data.sources import LIMITS, Split, TaskSource
from tasks.data.splits.division import split_rows
from tasks.data.token_ids import encode, encode_pair
from tasks.data.tokenize import load_examples, text_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows of a split that are measured at most; all of its rows are counted.
NUM_SAMPLED = 512
# Measured over the training rows of the eight published tasks (slices of 1,000 or fewer each) with OPT's tokenizer.
CHARACTERS_PER_TOKEN = 4.5

Size = tuple[int, int]


def measure(
    task: TaskSource, tokenizer: "PreTrainedTokenizerBase | None", context: int, num_fewshot: int = 0
) -> Workload:
    """Measure the lengths of the training, validation and scored splits. num_fewshot: examples before each scored row.

    Raises:
        InputError: when rows cannot be used.
    """
    train, validation = (_trained(task, split, tokenizer, context) for split in ("train", "validation"))
    num_scored = len(split_rows(task, "scored"))
    if task.kind == "lm_eval":
        scored, writes = _scored(task, tokenizer, context, train.answers, num_fewshot)
    else:
        scored, writes = _trained(task, "scored", tokenizer, context), False
    return Workload(train, validation, scored, num_scored, writes)


def _trained(task: TaskSource, split: Split, tokenizer: "PreTrainedTokenizerBase | None", context: int) -> Lengths:
    sample, share = _sample(task, split)
    if tokenizer is not None:
        examples = load_examples(sample, split, tokenizer, context).rows
        sizes = [(row.num_tokens, len(row.answer_ids)) for row in examples]
    else:
        sizes = [
            size for pair in text_pairs(sample, split) for size in _guessed(sample, pair.prompt, pair.answer, context)
        ]
    return Lengths.of(sizes, round(len(sizes) * share))


def _scored(
    task: TaskSource, tokenizer: "PreTrainedTokenizerBase | None", context: int, generated: float, num_fewshot: int
) -> tuple[Lengths, bool]:
    """Return the lengths of the inputs of scoring, and whether the model generates text.

    Each distinct input counts once, without its last token, which predicts nothing.
    """
    sample, share = _sample(task, "scored")
    any_writes = False
    found: dict[object, Size] = {}
    prompts = set[object]()
    for before, after, writes in _requests(sample, num_fewshot):
        if before is None:
            length = _guess(after) if tokenizer is None else len(encode(tokenizer, after))
            pieces = _pieces(length, task.window(context))
            found |= {(after, at): (piece, piece) for at, piece in enumerate(pieces)}
            prompts |= {(after, at) for at in range(len(pieces))}
            continue
        prompts.add(before)
        if writes:
            any_writes = True
            length = _guess(before) if tokenizer is None else len(encode(tokenizer, before))
            found[before] = (length + round(generated), round(generated))
        elif tokenizer is None:
            number = _guess(after)
            found[(before, after if number > 1 else "")] = (_guess(before) + number - 1, number)
        else:
            first, second = encode_pair(tokenizer, before, after)
            found[(*first, *second[:-1])] = (len(first) + len(second) - 1, len(second))
    bound = task.longest(context)
    sizes = [(min(bound, length), number) for length, number in found.values()]
    return Lengths.of(sizes, round(len(found) * share), len(found) / len(prompts)), any_writes


def _requests(task: TaskSource, num_fewshot: int) -> Iterator[tuple[str | None, str, bool]]:
    """Yield (context, continuation, whether the model generates the continuation) of every request of lm-eval.

    The context of a document is None.
    """
    from tasks.data.lm_eval_rows import built_task

    definition = built_task(task, "scored", num_fewshot)
    for request in definition.instances:
        if definition.OUTPUT_TYPE == "loglikelihood_rolling":
            yield None, request.args[0], False
        else:
            yield request.args[0], str(request.args[1]), definition.OUTPUT_TYPE == "generate_until"


def _sample(task: TaskSource, split: Split) -> tuple[TaskSource, float]:
    """Return the task with at most NUM_SAMPLED rows of the split, and the ratio of all rows to these."""
    count = len(split_rows(task, split))
    used = min(count, NUM_SAMPLED)
    return task.model_copy(update={LIMITS[split]: used}), count / used


def _guessed(task: TaskSource, prompt: str | None, answer: str, context: int) -> Iterator[Size]:
    number = _guess(answer)
    if prompt is not None:
        yield min(task.longest(context), _guess(prompt) + number), number
        return
    for piece in _pieces(number, task.window(context) - 1):
        yield piece + 1, piece


def _pieces(length: int, size: int) -> list[int]:
    """Divide a length into pieces of a size, the last one shorter."""
    return [min(size, length - start) for start in range(0, length, size)]


def _guess(text: str) -> int:
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))
