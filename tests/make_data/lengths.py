"""Rows as the lengths of their texts, and rows of meaningless text that have these lengths.

What a row costs depends on how long its texts are and on which of them are equal. The lengths carry that without the
text, so that many rows of data sets fit into a small file, whatever their licences.
"""

import ast
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.make_data.folder import DATA, write_lines

Row = dict[str, Any]
Words = Callable[[int], str]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLANK = "  _  ."


@dataclass(frozen=True)
class Form:
    """How a task's row becomes a list of lengths, and how such a list and filler text become a row."""

    lengths: Callable[[Row], list]
    row: Callable[[list, Words], Row]


def write_filler_rows(name: str, folder: Path) -> None:
    """Write a file of meaningless rows for each split of a task, with the lengths of real rows."""
    found = json.loads((DATA / "lengths" / f"{name}.json").read_text())
    words = filler(random.Random(name))
    for split, rows in found.items():
        lines = [json.dumps(FORMS[name].row(lengths, words)) for lengths in rows]
        write_lines(folder / f"{split}.jsonl", lines)


def filler(chosen: random.Random) -> Words:
    """Texts of random words of six letters, which neither begin nor end with a blank."""

    def words(length: int) -> str:
        letters = [" " if at % 7 == 6 and at != length - 1 else chosen.choice(LETTERS) for at in range(length)]
        return "".join(letters)

    return words


def _arc(stem: str) -> Form:
    def lengths(row: Row) -> list:
        return [len(row[stem]), row["choices"]["label"].index(row["answerKey"]), *map(len, row["choices"]["text"])]

    def row(lengths: list, words: Words) -> Row:
        question, right, *choices = lengths
        labels = list("ABCDE"[: len(choices)])
        texts = [words(length) for length in choices]
        return {stem: words(question), "choices": {"text": texts, "label": labels}, "answerKey": labels[right]}

    return Form(lengths, row)


def _piqa_lengths(row: Row) -> list:
    return [len(row["goal"]), row["label"], len(row["sol1"]), len(row["sol2"])]


def _piqa_row(lengths: list, words: Words) -> Row:
    goal, label, first, second = lengths
    return {"goal": words(goal), "label": label, "sol1": words(first), "sol2": words(second)}


def _hellaswag_lengths(row: Row) -> list:
    """Lengths without WikiHow's marks, which lm-eval takes away."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return [len(_plain(context)), int(row["label"]), *(len(_plain(ending)) for ending in row["endings"])]


def _plain(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _hellaswag_row(lengths: list, words: Words) -> Row:
    context, label, *endings = lengths
    # A label of four letters, and the blank that lm-eval puts behind ctx_a and takes away again.
    start = {"activity_label": words(4), "ctx_a": words(context - len("abcd: ")), "ctx_b": ""}
    return start | {"label": str(label), "endings": [words(length) for length in endings]}


SCIENCE = ("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer")


def _sciq_lengths(row: Row) -> list:
    return [len(row[field].lstrip()) for field in SCIENCE]


def _sciq_row(lengths: list, words: Words) -> Row:
    return {field: words(length) for field, length in zip(SCIENCE, lengths, strict=True)}


def _webqs_lengths(row: Row) -> list:
    return [len(row["question"]), *map(len, row["answers"])]


def _webqs_row(lengths: list, words: Words) -> Row:
    question, *answers = lengths
    return {"question": words(question), "answers": [words(length) for length in answers]}


def _race_lengths(row: Row) -> list:
    """The article's; of each problem its question's, whether that ends with a gap, its answer, its options'."""
    problems = [
        [len(each["question"]), int(each["question"].endswith(BLANK)), "ABCD".index(each["answer"])]
        + [len(option) for option in each["options"]]
        for each in ast.literal_eval(row["problems"])
    ]
    return [len(row["article"]), *problems]


def _race_row(lengths: list, words: Words) -> Row:
    article, *problems = lengths
    made = []
    for question, has_gap, answer, *options in problems:
        text = words(question - len(BLANK)) + BLANK if has_gap else words(question)
        made.append({"question": text, "answer": "ABCD"[answer], "options": [words(length) for length in options]})
    return {"article": words(article), "problems": str(made)}


FORMS = {
    "openbookqa": _arc("question_stem"),
    "piqa": Form(_piqa_lengths, _piqa_row),
    "arc_easy": _arc("question"),
    "arc_challenge": _arc("question"),
    "hellaswag": Form(_hellaswag_lengths, _hellaswag_row),
    "sciq": Form(_sciq_lengths, _sciq_row),
    "webqs": Form(_webqs_lengths, _webqs_row),
    "race": Form(_race_lengths, _race_row),
}
