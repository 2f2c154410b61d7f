"""Data files: read by their content, each fault named by row and field, and the text of a field by one rule."""

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from tasks.core.errors import InputError
from tasks.data.checks import check_inputs
from tasks.data.resolving import resolve_task
from tasks.data.resolving_text import resolve_text
from tasks.data.rows.reading import Row, field_text, read_rows
from tasks.data.sources import TaskSource
from tasks.data.tokenize import text_pairs
from tasks.models.source import ModelSource
from tests.store.inputs import own_task, question, stories, write_rows

HALF = "\\ud83d"
ROWS = [{"text": "a", "n": 1}, {"text": "b", "n": None}]


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def own(folder: Path, kind: str) -> TaskSource:
    return resolve_task({"name": "mine", "kind": kind, "data": str(folder)})


# By content


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        "\n\n " + json.dumps(ROWS, indent=2),
        "".join(json.dumps(row) + "\n" for row in ROWS),
        "\ufeff" + "\n\ufeff".join(json.dumps(row) for row in ROWS),  # several files put together
    ],
)
def test_a_list_and_a_row_a_line_under_either_name(tmp_path: Path, name: str, text: str) -> None:
    assert [row.fields for row in read_rows(written(tmp_path / name, text))] == ROWS


def test_rows_are_numbered_by_line_or_place(tmp_path: Path) -> None:
    lines = "\n" + "\n\n".join(json.dumps(row) for row in ROWS)
    assert [row.number for row in read_rows(written(tmp_path / "a.json", lines))] == [2, 4]
    assert [row.number for row in read_rows(written(tmp_path / "a.jsonl", json.dumps(ROWS, indent=1)))] == [1, 2]


def test_one_row_alone_is_a_row_under_either_name(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        assert read_rows(written(tmp_path / name, '{"text": "a", "tags": []}')) == [Row(1, {"text": "a", "tags": []})]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"version": 1, "data": [{"text": "secret"}]}', "the rows seem to be under 'data': keep that list"),
        ("a.jsonl", '{\n"data": [{"text": "secret"}]\n}', "the rows seem to be under 'data': keep that list"),
        ("a.json", '{\n"text": "secret"\n}', "holds one object over several lines, expected a list of rows"),
        ("a.json", '[\n{"text": "secret"},\n]', "line 3: not valid JSON"),
        ("a.json", '["secret"]', "row 1: it is a str"),
        ("a.jsonl", '["secret"]', "row 1: it is a list"),
        ("a.jsonl", '{"text": "secret"}\n{"text": "secret"', "row 2: not valid JSON"),
        ("a.jsonl", '{"text": "secret"}\n\n"secret"', "row 3: it is a str"),
        ("a.jsonl", '{"n": ' + "1" * 5000 + "}", r"row 1: not valid JSON \(a number has too many digits"),
        ("a.json", "[" * 100_000, r"line 1: not valid JSON \(nested too deeply"),
        ("a.json", "[]", "is empty"),
        ("a.json", " \n", "is empty"),
    ],
)
def test_content_that_is_no_rows(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_rows(written(tmp_path / name, text))
    assert "secret" not in str(caught.value)


# CSV


def test_a_table_as_pandas_writes_it(tmp_path: Path) -> None:
    table = pandas.DataFrame({"instruction": ["Add", "Say\nit"], "input": [1.5, None], "output": ["x", "y"]})
    path = tmp_path / "rows.csv"
    table.to_csv(path)
    assert [row.fields for row in read_rows(path)] == [
        {"instruction": "Add", "input": "1.5", "output": "x"},
        {"instruction": "Say\nit", "input": "", "output": "y"},
    ]
    table.set_index(["instruction", "output"], append=True).to_csv(path)
    assert read_rows(path)[0].fields == {"instruction": "Add", "output": "x", "input": "1.5"}


def test_columns_without_a_name_at_the_end(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "text,, \na,,\n")
    assert read_rows(path) == [Row(1, {"text": "a"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",text\n0,a\n1,b,c\n", "row 2: it has more values than the header names"),
        ("text\na\nb,c\n", "row 2: it has more values"),
        ("text,text\na,b\n", "two columns are called 'text'"),
        ('text\n"a\n', "is not valid CSV"),
        ("text\n", "is empty"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rows(written(tmp_path / "rows.csv", text))


def test_a_document_in_a_table_may_be_long(tmp_path: Path) -> None:
    [row] = read_rows(written(tmp_path / "rows.csv", f"text\n{'a' * 200_000}\n"))
    assert len(row.fields["text"]) == 200_000


# Half characters


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    ("row", "field"),
    [
        (f'{{"text": "a {HALF} b"}}', "text"),
        ('{"text": "a", "other": "\\uDE00"}', "other"),
        (f'{{"choices": {{"text": ["a", "b", "{HALF}"]}}}}', r"choices\.text\[2\]"),
        (f'{{"choices": [{{"a": "{HALF}"}}]}}', r"choices\[0\]\.a"),
        (f'{{"{HALF}": 1}}', r"\\ud83d"),
    ],
)
def test_half_a_character_is_refused_by_row_and_field(tmp_path: Path, name: str, row: str, field: str) -> None:
    rows = ['{"text": "whole: \\ud83d\\ude00"}', row]
    text = "\n".join(rows) if name == "rows.jsonl" else f"[{','.join(rows)}]"
    with pytest.raises(InputError, match=rf"{name}, row 2: the field '{field}' holds half a character"):
        read_rows(written(tmp_path / name, text))


def test_an_escape_that_is_escaped_is_text(tmp_path: Path) -> None:
    [row] = read_rows(written(tmp_path / "a.jsonl", '{"text": "\\\\ud83d"}'))
    assert row.fields["text"] == "\\ud83d"
    [row] = read_rows(written(tmp_path / "a.csv", "text\n\\ud83d\n"))
    assert row.fields["text"] == "\\ud83d"


@pytest.mark.parametrize("kind", ["text", "instructions", "lm_eval"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_half_a_character_in_every_kind_of_task_and_split(
    real_data: Path, tmp_path: Path, kind: str, split: str
) -> None:
    row = {"text": {"text": "a"}, "instructions": {"instruction": "a", "output": "b"}, "lm_eval": question()}[kind]
    bad = json.dumps(row).replace('"a"', f'"{HALF}"').replace('"one"', f'"{HALF}"')
    for name in ("train", "validation", "test"):
        lines = [json.dumps(row)] * 3
        lines[2] = bad if name == split else lines[2]
        written(tmp_path / f"{name}.jsonl", "\n".join(lines))
    name = "arc_easy" if kind == "lm_eval" else "mine"
    task = resolve_task({"name": name, "kind": kind, "data": str(tmp_path)})
    with pytest.raises(InputError, match=rf"{split}\.jsonl, row 3: the field '.*' holds half a character"):
        check_inputs(stories(real_data), task)


# The text of a field


def test_numbers_and_booleans_become_text_as_json_writes_them() -> None:
    fields: dict[str, Any] = {"a": 7, "b": 7.5, "c": True, "d": "x", "e": None, "f": float("nan"), "g": ""}
    row = Row(1, fields)
    found = [field_text(Path("a"), row, field) for field in (*fields, "absent")]
    assert found == ["7", "7.5", "true", "x", None, None, "", None]


def test_numbers_in_instructions_and_text(tmp_path: Path, real_data: Path) -> None:
    rows: list[dict[str, Any]] = [{"instruction": 1, "input": 7, "output": 2.5}, {"instruction": "a", "output": False}]
    write_rows(tmp_path / "one" / "train.jsonl", [{"instruction": 2, "output": True}])
    write_rows(tmp_path / "one" / "test.jsonl", rows)
    write_rows(tmp_path / "two" / "train.jsonl", [{"text": 41}, {"text": ""}, {"text": "a"}])
    write_rows(tmp_path / "two" / "test.jsonl", [{"text": 42}, {"text": ""}, {"text": "b"}])
    pairs = [(pair.prompt, pair.answer) for pair in text_pairs(own(tmp_path / "one", "instructions"), "scored")]
    assert pairs == [("Instruction: 1\nInput: 7\nAnswer:", " 2.5"), ("Instruction: a\nAnswer:", " false")]
    for task in (own(tmp_path / "two", "text"), resolve_text(str(tmp_path / "two"))):
        assert [pair.answer for pair in text_pairs(task, "scored")] == ["42", "b"]
    check_inputs(stories(real_data), own(tmp_path / "two", "text"))


@pytest.fixture(scope="module")
def model(real_data: Path) -> ModelSource:
    return stories(real_data)


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
@pytest.mark.parametrize("value", [["secret"], {"secret": "a"}])
def test_lists_and_objects_are_refused_by_row(tmp_path: Path, model: ModelSource, field: str, value: Any) -> None:
    good = {"instruction": "a", "input": "b", "output": "c"}
    other = [good | {"instruction": letter} for letter in "deg"]
    write_rows(tmp_path / "train.jsonl", [*other[:2], good | {field: value}])
    write_rows(tmp_path / "test.jsonl", other[2:])
    with pytest.raises(
        InputError, match=rf"row 3: '{field}' is a (list|dict), expected a string or a number"
    ) as caught:
        check_inputs(model, own(tmp_path, "instructions"))
    assert "secret" not in str(caught.value)


def test_an_answer_that_is_not_a_number_is_missing(tmp_path: Path, model: ModelSource) -> None:
    write_rows(
        tmp_path / "train.jsonl", [{"instruction": "a", "output": 1}, {"instruction": "a", "output": float("nan")}]
    )
    write_rows(tmp_path / "test.jsonl", [{"instruction": "b", "output": 1}])
    with pytest.raises(InputError, match="row 2: it lacks the field 'output'"):
        check_inputs(model, own(tmp_path, "instructions"))


def test_lines_of_a_stock_task_in_a_json_file(tmp_path: Path, model: ModelSource) -> None:
    task = own_task(tmp_path, [question(number) for number in range(3)])
    (tmp_path / "train.jsonl").rename(tmp_path / "train.json")
    again = resolve_task({"name": "arc_easy", "data": str(tmp_path)})
    assert check_inputs(model, again)["num_train_rows"] == 2
    assert again.digest == task.digest
