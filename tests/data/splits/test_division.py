"""Splits are disjoint by content, whatever a definition or a folder calls them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.data.lengths import measure
from tasks.data.resolving import resolve_task
from tasks.data.resolving_text import resolve_text
from tasks.data.sources import Split, TaskSource
from tasks.data.splits.division import overlaps, split_rows
from tasks.reports.input_notes import input_notes, split_table
from tests.store.inputs import write_rows

SPLITS: tuple[Split, ...] = ("train", "validation", "scored")
DEFINITION = """
task: colours
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
"""


def colour(number: int, **more: Any) -> dict:
    """A row that only its id and its question tell from others."""
    return {"id": number, "question": f"Which colour has box {number}?", "choices": ["red", "blue"], "label": 1} | more


def colours(folder: Path, definition: str = DEFINITION, **files: list[dict]) -> TaskSource:
    """A task of one's own over these rows."""
    for split, rows in files.items():
        write_rows(folder / f"{split}.jsonl", rows)
    (folder / "colours.yaml").write_text(definition)
    return resolve_task({"name": "colours", "data": str(folder)})


def numbers(task: TaskSource) -> dict[str, list[int]]:
    """Row numbers of each split, counted in its file."""
    return {split: [row.number for row in split_rows(task, split)] for split in SPLITS}


def questions(task: TaskSource, split: Split) -> set[str]:
    return {row.fields["question"] for row in split_rows(task, split)}


def by_name(folder: Path) -> TaskSource:
    """A definition that names one split twice."""
    write_rows(folder / "rows.jsonl", [colour(number) for number in range(60)])
    names = "training_split: train\nvalidation_split: train\n"
    data = "dataset_path: json\ndataset_kwargs: {data_files: {train: rows.jsonl}}\n"
    (folder / "gpqa.yaml").write_text(DEFINITION + names + data)
    return resolve_task({"name": str(folder / "gpqa.yaml")})


def by_copy(folder: Path) -> TaskSource:
    """A folder with the same rows for all splits."""
    rows = [colour(number) for number in range(60)]
    return colours(folder, train=rows, validation=rows, test=rows)


def by_link(folder: Path) -> TaskSource:
    """A folder whose test file is a link to that of train."""
    (folder / "test.jsonl").symlink_to("train.jsonl")
    return colours(folder, train=[colour(number) for number in range(60)])


@pytest.mark.parametrize("make", [by_name, by_copy, by_link])
def test_a_file_that_is_scored_and_trained_on_is_parted(tmp_path: Path, make: Any) -> None:
    task = make(tmp_path)
    assert task.scored_from_train
    assert task.validation_is_held_out
    found = numbers(task)
    # What is scored is a beginning, as `lm_eval --limit` scores it.
    assert found == {
        "scored": list(range(1, 31)),
        "validation": list(range(31, 37)),
        "train": list(range(37, 61)),
    }
    limited = task.model_copy(update={"num_train": 3, "num_test": 2})
    assert (numbers(limited)["train"], numbers(limited)["scored"]) == ([37, 38, 39], [1, 2])


def test_validation_rows_that_are_scored_come_from_train(tmp_path: Path) -> None:
    scored = [colour(number) for number in range(100, 120)]
    task = colours(tmp_path, train=[colour(number) for number in range(40)], validation=scored, test=scored)
    assert numbers(task) == {"train": list(range(5, 41)), "validation": [1, 2, 3, 4], "scored": list(range(1, 21))}
    assert not questions(task, "validation") & questions(task, "scored")


def test_validation_rows_that_are_trained_on_are_held_out(tmp_path: Path) -> None:
    rows = [colour(number) for number in range(40)]
    task = colours(tmp_path, train=rows, validation=rows, test=[colour(number) for number in range(100, 110)])
    assert numbers(task) == {"train": list(range(5, 41)), "validation": [1, 2, 3, 4], "scored": list(range(1, 11))}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # MedMCQA, FLORES, a definition with one split for everything, and PIQA.
        ({"training": "a", "validation": "b", "test": "b"}, [("a", 36), ("a", 4), ("b", 20)]),
        ({"training": "b", "validation": "b", "test": "a"}, [("b", 16), ("b", 4), ("a", 40)]),
        ({"training": "a", "validation": "a", "test": "a"}, [("a", 16), ("a", 4), ("a", 20)]),
        ({"training": "a", "validation": "b"}, [("a", 36), ("a", 4), ("b", 20)]),
    ],
)
def test_a_definition_that_names_one_split_twice(tmp_path: Path, names: dict[str, str], expected: list) -> None:
    write_rows(tmp_path / "a.jsonl", [colour(number) for number in range(40)])
    write_rows(tmp_path / "b.jsonl", [colour(number) for number in range(100, 120)])
    data = "dataset_path: json\ndataset_kwargs: {data_files: {a: a.jsonl, b: b.jsonl}}\n"
    named = "".join(f"{role}_split: {name}\n" for role, name in names.items())
    (tmp_path / "twice.yaml").write_text(DEFINITION + named + data)
    task = resolve_task({"name": str(tmp_path / "twice.yaml")})
    said = {split: questions(task, split) for split in SPLITS}
    assert sum(map(len, said.values())) == len(set.union(*said.values())), "no row is in two splits"
    assert [(Path(task.file(split)).stem, len(said[split])) for split in SPLITS] == expected


def test_a_validation_file_of_its_own_stays_where_train_is_scored(tmp_path: Path) -> None:
    rows = [colour(number) for number in range(10)]
    task = colours(tmp_path, train=rows, test=rows, validation=[colour(number) for number in range(50, 53)])
    assert numbers(task) == {"scored": [1, 2, 3, 4, 5], "train": [6, 7, 8, 9, 10], "validation": [1, 2, 3]}


def test_one_file_and_a_folder_of_its_copies_are_different_inputs(tmp_path: Path) -> None:
    rows = [{"instruction": f"Add {number}", "output": "it"} for number in range(40)]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "folder" / f"{split}.jsonl", rows)
    shutil.copy(tmp_path / "folder" / "train.jsonl", tmp_path / "rows.jsonl")
    one, folder = (
        resolve_task({"name": "mine", "kind": "instructions", "data": str(tmp_path / name)})
        for name in ("rows.jsonl", "folder")
    )
    assert one.digest != folder.digest
    assert numbers(one)["scored"] == [37, 38, 39, 40]
    assert numbers(folder)["scored"] == list(range(1, 21))


def test_rows_that_say_the_same_are_left_out_whatever_their_id(tmp_path: Path) -> None:
    # Row 2 of train and row 1 of validation are scored too, row 4 of train validates too.
    train = [colour(1), colour(201), colour(3), colour(304), colour(5)]
    train[1]["question"], train[3]["question"] = "Which  colour has box 101?\n", "Which colour has box 52?"
    task = colours(
        tmp_path,
        train=train,
        validation=[colour(51, question="Which colour has box 102?"), colour(52), colour(53)],
        test=[colour(number) for number in range(100, 104)],
    )
    assert numbers(task) == {"train": [1, 3, 5], "validation": [2, 3], "scored": [1, 2, 3, 4]}
    assert overlaps(task) == {
        "num_train_scored_duplicates": 1,
        "num_train_validation_duplicates": 1,
        "num_validation_scored_duplicates": 1,
    }
    # The limit counts rows that are used.
    assert numbers(task.model_copy(update={"num_train": 2}))["train"] == [1, 3]
    # plan-cost counts what a run trains on.
    assert [measure(task, None, 64).train.num_rows, measure(task, None, 64).validation.num_rows] == [3, 2]


def test_rows_held_out_of_train_are_parted_after_the_scored_ones_left(tmp_path: Path) -> None:
    train = [colour(100), colour(101), *(colour(number) for number in range(38)), colour(0, id=77)]
    task = colours(tmp_path, train=train, test=[colour(number) for number in range(100, 110)])
    # Four of 41 rows validate, more than 5%; the last row says what the first of these says.
    assert numbers(task) == {"validation": [3, 4, 5, 6], "train": list(range(7, 41)), "scored": list(range(1, 11))}
    assert overlaps(task) == {
        "num_train_scored_duplicates": 2,
        "num_train_validation_duplicates": 1,
        "num_validation_scored_duplicates": 0,
    }


@pytest.mark.parametrize("kind", ["text", "instructions"])
def test_documents_and_instructions_are_compared_by_what_is_said(tmp_path: Path, kind: str) -> None:
    def row(number: int) -> dict:
        said = {"text": f"Document {number}"} if kind == "text" else {"instruction": f"Say {number}", "output": "it"}
        return said | {"source": len(list(tmp_path.iterdir()))}

    for split, numbered in {"train": range(5), "validation": range(4, 8), "test": (1, 6, 9)}.items():
        write_rows(tmp_path / f"{split}.jsonl", [row(number) for number in numbered])
    task = resolve_task({"name": "mine", "kind": kind, "data": str(tmp_path)})
    assert numbers(task) == {"train": [1, 3, 4], "validation": [1, 2, 4], "scored": [1, 2, 3]}


def test_a_field_that_code_reads_under_a_made_up_name_counts(tmp_path: Path) -> None:
    """The definition names neither `choice0` nor `choice1`."""
    (tmp_path / "words.py").write_text("def choices(doc):\n    return [doc[f'choice{at}'] for at in range(2)]\n")
    definition = DEFINITION.replace("doc_to_choice: choices", "doc_to_choice: !function words.choices")

    def row(number: int, other: str) -> dict:
        return {"id": number, "question": "Which is true?", "choice0": "red", "choice1": other, "label": 1}

    train = [row(1, "blue"), row(2, "green"), row(3, "grey"), row(4, "pink")]
    task = colours(tmp_path, definition, train=train, test=[row(5, "blue"), row(6, "white")])
    # Three rows stay: they say something else. The first of them validates.
    assert numbers(task) == {"validation": [2], "train": [3, 4], "scored": [1, 2]}
    assert overlaps(task)["num_train_scored_duplicates"] == 1


def test_no_row_left(tmp_path: Path) -> None:
    rows = [colour(number) for number in range(5)]
    task = colours(tmp_path, train=[row | {"id": 0} for row in rows], test=rows)
    with pytest.raises(
        InputError, match=r"no row is left for train; rows of train\.jsonl that are in another split too: 5"
    ):
        split_rows(task, "train")


def test_lines_of_generic_text_stay(tmp_path: Path) -> None:
    """Headings are in every part of a corpus, and nothing is scored on it."""
    for split, texts in {"train": ["= Plot =", "One."], "validation": ["= Plot =", "Two."]}.items():
        write_rows(tmp_path / f"{split}.jsonl", [{"text": text} for text in texts])
    task = resolve_text(str(tmp_path))
    assert [len(split_rows(task, split)) for split in ("train", "validation")] == [2, 2]


def test_what_a_reader_is_told() -> None:
    facts = {"scored_split": "test", "scored_from": "test", "validation_from": "validation"}
    facts |= {f"num_{split}_rows": count for split, count in (("train", 5), ("validation", 3), ("scored", 4))}
    facts |= {f"{split}_digest": "4:00ff" for split in SPLITS}
    assert input_notes(facts) == []
    facts |= {"num_train_scored_duplicates": 2, "num_train_validation_duplicates": 0}
    assert input_notes(facts) == ["Rows of train left out because a scored row says the same: 2."]
    [note] = input_notes(facts | {"scored_from": "train", "num_train_scored_duplicates": 0})
    assert "4 are scored, 3 validate, 5 are trained on; the scores are not those of the whole benchmark" in note
    [note] = input_notes({"gguf_types": {"Q4_1": 210, "F32": 61}})
    assert note.endswith("(tensors by type: Q4_1: 210, F32: 61); the scores are those of the model after quantisation.")
    [note] = input_notes({"gguf_types": {"BF16": 210, "F32": 61}})
    assert note.endswith("(tensors by type: BF16: 210, F32: 61).")
    table = split_table(facts)
    assert table.rows[0] == ["train", 5, "train", 2, 0, "4:00ff"]
    assert len(table.rows) == 3


def test_files_of_different_form_with_the_same_rows_share_none(tmp_path: Path) -> None:
    """Not equal as files, so that rows are compared: of train, those that are not scored stay."""
    rows = [colour(number) for number in range(6)]
    (tmp_path / "test.json").write_text(json.dumps(rows[:4], indent=1))
    task = colours(tmp_path, train=rows)
    assert questions(task, "train") | questions(task, "validation") == {row["question"] for row in rows[4:]}


@pytest.mark.parametrize(("num_rows", "validating"), [(3, 1), (8, 2), (12, 4), (60, 4), (100, 5)])
def test_enough_rows_validate_to_compare_blocks(tmp_path: Path, num_rows: int, validating: int) -> None:
    """5%, but four where that is at most a third of the rows."""
    rows = [colour(number) for number in range(num_rows)]
    task = colours(tmp_path, train=rows, test=[colour(number) for number in range(200, 204)])
    assert numbers(task)["validation"] == list(range(1, validating + 1))
