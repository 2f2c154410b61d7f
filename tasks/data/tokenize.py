"""Turn a task's rows into examples of token ids, by the same rule as for scoring (see `tasks.data.token_ids`).

Only the reference template differs: the published code tokenises prompt and answer apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.data.chat import render
from tasks.data.instructions import NEEDED, OPTIONAL, TEMPLATES
from tasks.data.rows.reading import text_rows
from tasks.data.sources import LIMITS, Chat, Split, TaskSource
from tasks.data.splits.division import split_rows
from tasks.data.token_ids import Ids, encode, encode_apart, encode_choices, prefix_id
from tasks.data.wording import digest_of, mark_of, require_same

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.core.batching import Example
    from tasks.data.lm_eval_rows import Pair

PARTS = ("prompt+answer", "prompt", "answer")


@dataclass(frozen=True)
class Examples:
    """Examples of one split, the number of truncated prompts, and the number of rows that they come from.

    A document of plain text gives one example for each window (`TaskSource.window`); every other row gives one.
    longest: for each example the tokens of its longest request, which is the example itself where there are no choices.
    num_apart: rows whose choices are encoded apart from the prompt because the tokenizer merges across the two.
    digest: digest of the rows as they are worded, in order.
    """

    rows: "list[Example]"
    num_truncated: int
    num_rows: int
    longest: tuple[int, ...] = ()
    num_apart: int = 0
    digest: str = ""


def load_examples(
    task: TaskSource,
    split: Split,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    limit: int | None = None,
    part: str = "prompt+answer",
) -> Examples:
    """Load the examples of a split, of at most `max_length` tokens each, and at most as many as the task allows.

    A longer prompt is truncated at its beginning, an answer never; a longer document becomes several windows.
    max_length: tokens that the model takes. limit: use only the first rows, in addition to the task's own limit.
    part: keep prompt and answer, or only one of them (the other is empty).

    Raises:
        InputError: when a row cannot be used (names its number), such as an answer without a token or without room for
            a prompt (on validation and scored rows, any other choice too); and when rows read differently than in the
            check.
    """
    if part not in PARTS:
        raise InputError(f"support.part = {part!r}: choose one of {', '.join(PARTS)}")
    if limit is not None:
        own = task.limit(split)
        task = task.model_copy(update={LIMITS[split]: limit if own is None else min(limit, own)})
    rows: list[Example] = []
    longest: list[int] = []
    num_truncated, num_apart, numbers = 0, 0, set()
    marks: list[bytes] = []
    bound = task.longest(max_length)
    for pair in text_pairs(task, split):
        marks.append(pair.mark or mark_of(None, (pair.prompt, pair.answer)))
        if pair.prompt is None:
            if part == "prompt":
                raise InputError(f"support.part = 'prompt', but the documents of task {task.name!r} have no prompt")
            windows = list(_windows(task, split, tokenizer, pair, task.window(max_length)))
            if windows:
                numbers.add(pair.number)
            rows += windows
            longest += [window.num_tokens for window in windows]
            continue
        numbers.add(pair.number)
        encoded = _encoded(task, split, tokenizer, pair, bound)
        prompt_ids, answer_ids = encoded.ids
        room = bound - len(answer_ids)
        num_truncated += len(prompt_ids) > room
        num_apart += encoded.is_apart
        rows.append(_example(prompt_ids[-room:], answer_ids, pair.number))
        longest.append(min(bound, encoded.longest))
    if not rows:
        raise InputError(f"task {task.name!r}: the {split} split has no row with text")
    digest = digest_of(marks)
    require_same(task, split, digest)
    reduced = [_reduced(row, part) for row in rows]
    return Examples(reduced, num_truncated, len(numbers), tuple(longest), num_apart, digest)


def text_pairs(task: TaskSource, split: Split) -> "Iterable[Pair]":
    """Return prompt and answer of every row of a split as text."""
    from tasks.data.lm_eval_rows import Pair, answers

    if task.kind == "lm_eval":
        return answers(task, split)
    rows = split_rows(task, split)
    file = Path(task.file(split))
    if task.kind == "text":
        rows = text_rows(file, rows, ["text"], allow_empty=True)
        return (Pair(row.number, None, row.fields["text"]) for row in rows if row.fields["text"].strip())
    rows = text_rows(file, rows, NEEDED, OPTIONAL)
    template = TEMPLATES[task.template]
    pairs = (Pair(row.number, *template.render(row.fields)) for row in rows)
    return (_in_turns(task.chat, pair) for pair in pairs) if task.chat else pairs


def _in_turns(chat: Chat, pair: "Pair") -> "Pair":
    return pair._replace(prompt=render(chat, [{"role": "user", "content": pair.prompt or ""}]))


@dataclass(frozen=True)
class _Encoded:
    """A row's prompt and right answer. longest: tokens of its longest request; is_apart: all are encoded apart."""

    ids: Ids
    longest: int
    is_apart: bool


def _encoded(
    task: TaskSource, split: Split, tokenizer: "PreTrainedTokenizerBase", pair: "Pair", bound: int
) -> _Encoded:
    assert pair.prompt is not None
    requests = pair.requests or ((pair.prompt, pair.answer),)
    choices, is_apart = encode_choices(tokenizer, requests)
    if task.template == "reference":
        ids = encode_apart(tokenizer, pair.prompt, pair.answer)
    else:
        ids = choices[requests.index((pair.prompt, pair.answer))]
    place = f"task {task.name!r}, {split} row {pair.number}"
    _require_room(task, ids[1], bound, f"{place}: the answer")
    # In training, only the answer is used.
    for number, (_, choice) in enumerate(choices if split != "train" else (), start=1):
        _require_room(task, choice, bound, f"{place}: choice {number} of {len(choices)}")
    return _Encoded(ids, max(sum(map(len, each)) for each in (ids, *choices)), is_apart)


def _require_room(task: TaskSource, ids: list[int], bound: int, what: str) -> None:
    """Check that a continuation has a token, without which it has no likelihood, and leaves room for a prompt.

    Raises:
        InputError: when it has none, or fills the context.
    """
    if not ids:
        raise InputError(
            f"{what} has no token: it is empty, or the tokenizer drops all of its characters; leave this row out"
        )
    if len(ids) >= bound:
        takes = f"task.max_length is {bound}" if bound == task.max_length else f"the model takes {bound}"
        raise InputError(f"{what} has {len(ids)} tokens, {takes}; leave this row out")


def _windows(
    task: TaskSource, split: Split, tokenizer: "PreTrainedTokenizerBase", pair: "Pair", max_length: int
) -> "Iterator[Example]":
    """Divide a document into windows: each predicts as many tokens as fit after one token of context."""
    # lm-eval encodes the documents of its own tasks with the tokenizer's special tokens.
    tokens = encode(tokenizer, pair.answer, special=task.kind == "lm_eval")
    if not tokens and task.kind == "lm_eval":
        raise InputError(
            f"task {task.name!r}, {split} row {pair.number}: the document has no token; leave this row out"
        )
    size, prefix = max_length - 1, prefix_id(tokenizer)
    for start in range(0, len(tokens), size):
        before = tokens[start - 1] if start else prefix
        yield _example([before], tokens[start : start + size], pair.number)


def _reduced(example: "Example", part: str) -> "Example":
    if part == "prompt":
        return replace(example, answer_ids=())
    return replace(example, prompt_ids=()) if part == "answer" else example


def _example(prompt_ids: list[int], answer_ids: list[int], number: int) -> "Example":
    from tasks.core.batching import Example

    return Example(tuple(prompt_ids), tuple(answer_ids), number)
