"""Rows of a task as token ids, exactly as lm-eval's Hugging Face model encodes what it scores.

Only the reference template differs: the published code tokenises prompt and answer apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.store.instructions import NEEDED, OPTIONAL, TEMPLATES
from tasks.store.rows import text_rows
from tasks.store.splits import split_rows
from tasks.store.task_sources import LIMITS, Split, TaskSource
from tasks.store.wording import digest_of, mark_of, require_same

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.core.batching import Example
    from tasks.store.harness import Pair

PARTS = ("prompt+answer", "prompt", "answer")


@dataclass(frozen=True)
class Examples:
    """Examples of one split, how many had their prompt cut, and how many rows they come from.

    A document of plain text gives one example for each window of the context; every other row gives one.
    digest: of the rows as they are worded, in their order.
    """

    rows: "list[Example]"
    num_truncated: int
    num_rows: int
    digest: str = ""


def load_examples(
    task: TaskSource,
    split: Split,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    limit: int | None = None,
    part: str = "prompt+answer",
) -> Examples:
    """Examples of a split, of at most `max_length` tokens: a longer prompt loses its beginning, an answer nothing.

    limit: use only the first rows, beside the task's own limit.
    part: keep prompt and answer, or only one of them (the other is empty).
    InputError for rows that cannot be used (by number), an answer that leaves no room for a prompt, or rows that read
    otherwise than in the check.
    """
    if part not in PARTS:
        raise InputError(f"support.part = {part!r}: choose one of {', '.join(PARTS)}")
    if limit is not None:
        own = task.limit(split)
        task = task.model_copy(update={LIMITS[split]: limit if own is None else min(limit, own)})
    encoded = encode_apart if task.template == "reference" else encode_pair
    rows: list[Example] = []
    num_truncated, numbers = 0, set()
    marks: list[bytes] = []
    for pair in text_pairs(task, split):
        numbers.add(pair.number)
        marks.append(pair.mark or mark_of(None, (pair.prompt, pair.answer)))
        if pair.prompt is None:
            if part == "prompt":
                raise InputError(f"support.part = 'prompt', but the documents of task {task.name!r} have no prompt")
            # lm-eval encodes the documents of its own tasks with the tokenizer's special tokens.
            tokens = encode(tokenizer, pair.answer) if task.kind == "lm_eval" else encode(tokenizer, pair.answer, False)
            rows += _windows(tokens, prefix_id(tokenizer), max_length, pair.number)
            continue
        prompt_ids, answer_ids = encoded(tokenizer, pair.prompt, pair.answer)
        room = max_length - len(answer_ids)
        if room < 1 or not answer_ids:
            problem = f"has {len(answer_ids)} tokens, the model takes {max_length}" if answer_ids else "is empty"
            raise InputError(f"task {task.name!r}, {split} row {pair.number}: the answer {problem}; leave this row out")
        num_truncated += len(prompt_ids) > room
        rows.append(_example(prompt_ids[-room:], answer_ids, pair.number))
    if not rows:
        raise InputError(f"task {task.name!r}: the {split} split has no row with text")
    digest = digest_of(marks)
    require_same(task, split, digest)
    return Examples([_reduced(row, part) for row in rows], num_truncated, len(numbers), digest)


def text_pairs(task: TaskSource, split: Split) -> "Iterable[Pair]":
    """Prompt and answer of every row of a split as text."""
    from tasks.store.harness import Pair, answers

    if task.kind == "lm_eval":
        return answers(task, split)
    rows = split_rows(task, split)
    file = Path(task.file(split))
    if task.kind == "text":
        rows = text_rows(file, rows, ["text"], allow_empty=True)
        return (Pair(row.number, None, row.fields["text"]) for row in rows if row.fields["text"].strip())
    rows = text_rows(file, rows, NEEDED, OPTIONAL)
    template = TEMPLATES[task.template]
    return (Pair(row.number, *template.render(row.fields)) for row in rows)


def encode_pair(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) by lm-eval's rule: both are encoded together, and cut after the prompt's own length.

    Spaces at the prompt's end go to the answer, because most tokenizers join a space to the word behind it. An empty
    prompt becomes the token that a text begins with.
    """
    stripped = prompt.rstrip()
    if not stripped:
        answer_ids = encode(tokenizer, prompt + answer, special=False)
        start = prefix_id(tokenizer)
        return (answer_ids[:1], answer_ids[1:]) if answer_ids[:1] == [start] else ([start], answer_ids)
    whole = encode(tokenizer, stripped + prompt[len(stripped) :] + answer)
    prompt_ids = encode(tokenizer, stripped)
    return prompt_ids, whole[len(prompt_ids) :]


def encode_apart(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids), each encoded by itself, without special tokens between them.

    Where nothing stands between the two, encoded together their letters may join to tokens that belong to neither.
    """
    if not prompt.strip():
        return encode_pair(tokenizer, prompt, answer)
    return encode(tokenizer, prompt), encode(tokenizer, answer, special=False)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool = True) -> list[int]:
    """Token ids; with the tokenizer's own special tokens unless the text already begins with the first of them."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not special or (start is not None and text.startswith(str(tokenizer.decode(start)))):
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode(text)


def prefix_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that stands before a text that has no prompt. InputError if the tokenizer has none."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise InputError(
            "the tokenizer has neither a begin nor an end token, and text without a prompt needs one:"
            " set bos_token in tokenizer_config.json"
        )
    return int(found)


def _windows(tokens: list[int], prefix: int, max_length: int, number: int) -> "Iterator[Example]":
    """A document in pieces: each predicts as many tokens as fit behind the one token before them."""
    size = max_length - 1
    for start in range(0, len(tokens), size):
        before = tokens[start - 1] if start else prefix
        yield _example([before], tokens[start : start + size], number)


def _reduced(example: "Example", part: str) -> "Example":
    if part == "prompt":
        return replace(example, answer_ids=())
    return replace(example, prompt_ids=()) if part == "answer" else example


def _example(prompt_ids: list[int], answer_ids: list[int], number: int) -> "Example":
    from tasks.core.batching import Example

    return Example(tuple(prompt_ids), tuple(answer_ids), number)
