"""Definitions of a user's own: null and absent fields as lm-eval has them, and every failure of their code named."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

from tasks.core.errors import EnvironmentFault, InputError
from tasks.data import hub as hub_data
from tasks.data import scoring
from tasks.data.checks import check_inputs
from tasks.data.lm_eval_rows import answers
from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import stories, write_rows

CHOICE = {
    "task": "mine",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WRITE = {
    "task": "mine",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"max_gen_toks": 4, "until": ["."]},
}


@pytest.fixture(scope="module")
def model(real_data: Path) -> ModelSource:
    return stories(real_data)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"question": f"Is {number} a secret?", "label": number % 2, "answer": "a secret", **more}


def rows(count: int = 24, **at: dict[str, Any]) -> list[dict[str, Any]]:
    """Good rows; at row<number> with other fields. A value of ... takes a field away."""
    found = [row(number) | at.get(f"row{number}", {}) for number in range(1, count + 1)]
    return [{key: value for key, value in each.items() if value is not ...} for each in found]


def own(folder: Path, config: dict[str, Any], given: list[dict[str, Any]], code: str | None = None) -> TaskSource:
    """A task of one's own; its functions are written as `!function utils.name`."""
    folder.mkdir(exist_ok=True)
    text = yaml.dump(config, width=1000).replace("'!function", "!function")
    text = "\n".join(line.removesuffix("'") if "!function" in line else line for line in text.splitlines())
    (folder / "mine.yaml").write_text(text)
    if code is not None:
        (folder / "utils.py").write_text(code)
    # Rows that are equal in several splits would be left out of train: the questions of the others end differently.
    for split, end in (("train", ""), ("validation", " Say it."), ("test", " Tell.")):
        texts = [each.get("question") for each in given]
        asked = [{"question": text + end} if isinstance(text, str) else {} for text in texts]
        write_rows(folder / f"{split}.jsonl", [each | other for each, other in zip(given, asked, strict=True)])
    return resolve_task({"name": "mine", "data": str(folder)})


def refuse(model: ModelSource, task: TaskSource, message: str) -> None:
    """The check refuses the task in one line that quotes no row."""
    with pytest.raises(InputError, match=message) as caught:
        check_inputs(model, task)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Null and absent


def prompts_of_lm_eval(folder: Path) -> list[tuple[str, str]]:
    """What lm-eval's own loader and data path ask of a model for the test split: prompt and ending."""
    config = yaml.safe_load((folder / "mine.yaml").read_text())
    files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}}}
    files["dataset_kwargs"]["cache_dir"] = str(folder / "cache")  # type: ignore[index]
    (folder / "stock").mkdir()
    (folder / "stock" / "theirs.yaml").write_text(yaml.dump(config | files | {"task": "theirs", "test_split": "test"}))
    task = TaskManager(include_path=str(folder / "stock"), include_defaults=False).load(["theirs"])["tasks"]["theirs"]
    task.build_all_requests()
    return [request.args for request in task.instances]


@pytest.mark.parametrize("hint", [None, ...], ids=["null", "absent"])
@pytest.mark.parametrize(
    "asking",
    [
        "{% if hint %}Hint: {{hint}}. {% endif %}",
        "{% if hint is not none %}Hint: {{hint}}. {% endif %}",
        "{{hint or ''}}",
    ],
)
def test_an_optional_field_is_worded_as_lm_eval_words_it(
    tmp_path: Path, model: ModelSource, asking: str, hint: Any
) -> None:
    config = CHOICE | {"doc_to_text": asking + "Question: {{question}}\nAnswer:"}
    given = rows(**{f"row{number}": {"hint": hint if number % 3 == 1 else "look"} for number in range(1, 25)})
    task = own(tmp_path, config, given)
    check_inputs(model, task)
    theirs = prompts_of_lm_eval(tmp_path)
    pairs = list(answers(task, "scored"))
    assert [(pair.prompt, pair.answer) for pair in pairs] == [
        theirs[2 * at + each["label"]] for at, each in enumerate(given)
    ]
    assert "None" not in "".join(pair.prompt or "" for pair in pairs)


def test_null_is_a_value_wherever_it_is_read(tmp_path: Path, model: ModelSource) -> None:
    config = CHOICE | {"doc_to_text": "{{hint}} {{question}}"}
    task = own(tmp_path, config, rows(row3={"hint": None}, **{"row4": {"hint": "x"}}, **no_hint(5)))
    assert check_inputs(model, task)["num_scored_rows"] == 24
    theirs = prompts_of_lm_eval(tmp_path)
    assert next(pair.prompt for pair in answers(task, "scored") if pair.number == 3) == theirs[4][0]


def no_hint(start: int) -> dict[str, dict[str, Any]]:
    """The other rows with a hint."""
    return {f"row{number}": {"hint": "y"} for number in (1, 2, *range(start, 25))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"doc_to_text": "{{hint}} {{question}}"},
            r"train\.jsonl, row 3: it lacks the field 'hint', which task 'mine'",
        ),
        ({"doc_to_text": "{{other}}"}, r"row 1: it lacks the field 'other', which task 'mine' reads"),
    ],
)
def test_a_field_that_is_absent_and_read_as_text(
    tmp_path: Path, model: ModelSource, changes: dict[str, Any], message: str
) -> None:
    given = rows(**{f"row{number}": {"hint": "x"} for number in (1, 2, *range(4, 25))})
    refuse(model, own(tmp_path, CHOICE | changes, given), message)


def test_of_several_absent_fields_those_that_are_read_are_named(tmp_path: Path, model: ModelSource) -> None:
    given = rows(row3={"question": ..., "answer": ...})
    refuse(model, own(tmp_path, CHOICE, given), r"row 3: it lacks the field 'question', which")


def test_a_row_that_lacks_a_field_and_fails_for_another_reason(tmp_path: Path, model: ModelSource) -> None:
    given = rows(row3={"answer": ..., "label": 7})
    refuse(model, own(tmp_path, CHOICE, given), r"row 3: the label is 7, out of range")


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        (CHOICE, "label", "row 5: its label is null"),
        (WRITE | {"doc_to_target": "answer"}, "answer", "row 5: its answer is null"),
    ],
)
def test_an_answer_that_is_null(
    tmp_path: Path, model: ModelSource, config: dict[str, Any], field: str, message: str
) -> None:
    refuse(model, own(tmp_path, config, rows(row5={field: None})), message)


# Code that cannot be imported


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import no_such_package_1.part\n",
            r"the Python package 'no_such_package_1' is not installed .*in utils\.py, line 1",
        ),
        ("import json.no_such_module\n", r"the installed json has no module json\.no_such_module in utils\.py, line 1"),
        ("\nfrom json import no_such_name\n", r"cannot import name 'no_such_name' from 'json'.* in utils\.py, line 2"),
        ("raise RuntimeError('no corpus')\n", r"RuntimeError in utils\.py, line 1: no corpus"),
        ("def gold(:\n", r"SyntaxError: invalid syntax \(utils\.py, line 1\)"),
        ("import sys\nsys.exit('install it')\n", r"SystemExit in utils\.py, line 2: install it"),
        ("def other(doc):\n    return 0\n", "AttributeError: Module .* has no function 'gold'"),
    ],
)
def test_code_that_cannot_be_imported(tmp_path: Path, model: ModelSource, code: str, message: str) -> None:
    task = own(tmp_path, CHOICE | {"doc_to_target": "!function utils.gold"}, rows(), code)
    where = r"task 'mine': the code of its definition .*mine\.yaml cannot be imported \("
    refuse(model, task, where + message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_type": "guessing"}, "Got invalid output_type"),
        ({"metric_list": [{"aggregation": "mean"}]}, "'metric' key not provided"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_a_definition_that_lm_eval_refuses(
    tmp_path: Path, model: ModelSource, changes: dict[str, Any], message: str
) -> None:
    refuse(
        model, own(tmp_path, CHOICE | changes, rows()), rf"lm-eval cannot use its definition .*mine\.yaml .*({message})"
    )


# Code that fails on rows


@pytest.mark.parametrize(
    ("key", "body", "message"),
    [
        ("doc_to_text", "return str(1 / (doc['label'] - 1))", r"row 6: .*\(ZeroDivisionError in utils\.py, line 2\)"),
        ("doc_to_text", "raise ValueError(doc['question'])", r"row 5: .*\(ValueError in utils\.py, line 2\)"),
        ("doc_to_text", "import no_such_package_2", r"row 5: .*\(the Python package 'no_such_package_2' is not inst"),
        ("doc_to_text", "return None", r"row 5: its prompt \(doc_to_text\) is a NoneType, expected a text"),
        ("doc_to_choice", "return doc['question']", r"row 5: its choices \(doc_to_choice\) are a str, expected a list"),
        ("doc_to_choice", "return None", r"row 5: its choices \(doc_to_choice\) are a NoneType"),
        (
            "doc_to_choice",
            "return ['a', 2 if doc['label'] else 'b']",
            r"row 6: one of its choices \(doc_to_choice\) is a int, expected a text",
        ),
        ("doc_to_target", "return doc['nothing']", r"row 5: it lacks the field 'nothing', which task 'mine' reads"),
        ("doc_to_target", "return 'secret'", r"row 5: the label is none of the 2 choices"),
        (
            "process_docs",
            "return doc.map(lambda row: {'x': 1 / (row['label'] - 1)})",
            r"row 6: .*\(ZeroDivisionError in",
        ),
        ("process_docs", "return None", "process_docs of .*mine.yaml gives a NoneType, expected a data set"),
        ("process_docs", "return doc.select([])", "uses none of its rows"),
    ],
)
def test_code_that_fails_on_a_row(tmp_path: Path, model: ModelSource, key: str, body: str, message: str) -> None:
    config = CHOICE | {key: "!function utils.made"}
    own(tmp_path, config, rows(25)[1:], f"def made(doc):\n    {body}\n")
    (tmp_path / "validation.jsonl").unlink()  # so that four rows validate, and train begins with row 5
    refuse(model, resolve_task({"name": "mine", "data": str(tmp_path)}), message)


def test_a_row_that_fits_no_column_is_found(tmp_path: Path, model: ModelSource) -> None:
    refuse(model, own(tmp_path, CHOICE, rows(row9={"more": {"a": [1, "x"]}})), r"row 9: it holds a value that does not")
    big = rows(row9={"label": 10**30})
    refuse(model, own(tmp_path, CHOICE, big), r"row 9: it holds a value that does not fit")


@pytest.mark.parametrize(
    "described",
    ['{"question": 3}', "[]", '{"question": {"dtype": "no", "_type": "Value"}}', '{"question": {"_type": "No"}}'],
)
def test_a_damaged_description_of_the_fields(tmp_path: Path, model: ModelSource, described: str) -> None:
    task = own(tmp_path, CHOICE, rows())
    (tmp_path / "features.json").write_text(described)
    refuse(model, task, r"features\.json does not describe the fields of rows")
    (tmp_path / "features.json").write_text("{")
    refuse(model, task, r"features\.json is not valid JSON")


def test_a_description_of_other_fields(tmp_path: Path, model: ModelSource) -> None:
    task = own(tmp_path, CHOICE, rows())
    (tmp_path / "features.json").write_text(json.dumps({"question": {"dtype": "int64", "_type": "Value"}}))
    refuse(model, task, r"train\.jsonl, row 1: it holds a value that does not fit")


# Metrics


METRICS = [
    (
        "raise ValueError(doc['question'])",
        r"its metrics cannot be computed.*mine\.yaml \(ValueError in utils\.py, line 2\)",
    ),
    (
        "import no_such_package_3",
        r"its metrics cannot be computed.*\(the Python package 'no_such_package_3' is not inst",
    ),
    ("import sys; sys.exit()", r"its metrics cannot be computed.*\(SystemExit in utils\.py, line 2\)"),
    ("return None", r"its metrics cannot be computed.*\(AttributeError\)"),
]


@pytest.mark.parametrize(("body", "message"), METRICS)
def test_metrics_that_fail_do_so_in_the_check_and_in_scoring(
    tmp_path: Path, model: ModelSource, body: str, message: str
) -> None:
    config = CHOICE | {"process_results": "!function utils.made"}
    task = own(tmp_path, config, rows(4), f"def made(doc, results):\n    {body}\n")
    refuse(model, task, message)
    with pytest.raises(InputError, match=message) as caught:
        scoring.score(load_model(model), load_tokenizer(model), task, max_length=64)
    assert "secret" not in str(caught.value)


def test_a_package_that_only_an_aggregation_needs(tmp_path: Path, model: ModelSource) -> None:
    config = CHOICE | {"metric_list": [{"metric": "acc", "aggregation": "!function utils.made"}]}
    task = own(tmp_path, config, rows(4), "def made(items):\n    import no_such_package_4\n")
    refuse(model, task, "the Python package 'no_such_package_4' is not installed")


def test_an_aggregation_that_nobody_knows(tmp_path: Path, model: ModelSource) -> None:
    config = CHOICE | {"metric_list": [{"metric": "acc", "aggregation": "no_such"}]}
    refuse(model, own(tmp_path, config, rows(4)), "names an aggregation of 'acc' that lm-eval does not know")


def test_an_aggregation_that_needs_more_rows_than_are_tried(tmp_path: Path, model: ModelSource) -> None:
    config = CHOICE | {"metric_list": [{"metric": "acc", "aggregation": "!function utils.made"}]}
    code = "def made(items):\n    return sum(items) / max(0, len(items) - 10)\n"
    check_inputs(model, own(tmp_path, config, rows(), code))


def test_scoring_that_would_run_what_the_model_writes(tmp_path: Path, model: ModelSource) -> None:
    refuse(model, own(tmp_path, WRITE | {"unsafe_code": True}, rows(4)), "runs code that the model writes")


def test_a_model_that_fails_in_scoring_is_no_fault_of_the_task(
    tmp_path: Path, model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(model)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a broken kernel")

    monkeypatch.setattr(network, "forward", fail)
    monkeypatch.setattr(type(network.base_model), "forward", fail)
    with pytest.raises(RuntimeError, match="a broken kernel") as caught:
        scoring.score(network, load_tokenizer(model), own(tmp_path, CHOICE, rows(4)), max_length=64)
    assert not isinstance(caught.value, InputError)


# Hub


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            KeyError("builder"),
            InputError,
            r"owner/set cannot be loaded \(KeyError: 'builder'\)\. Give the rows as files",
        ),
        (AttributeError("no"), InputError, "owner/set cannot be loaded"),
        (ModuleNotFoundError("No module named 'nope'", name="nope"), InputError, "package 'nope' is not installed"),
        (PermissionError(13, "Permission denied"), EnvironmentFault, "cannot be loaded"),
        (TimeoutError("slow"), EnvironmentFault, "cannot be reached"),
        ("DataFilesNotFoundError", InputError, "has no data files that can be read"),
        ("DatasetNotFoundError", InputError, "has no public data set"),
        ("DatasetGenerationError", InputError, "cannot be loaded"),
        ("ArrowInvalid", InputError, "cannot be loaded"),
    ],
)
def test_whatever_the_loader_of_data_sets_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, kind: type[Exception], message: str
) -> None:
    import datasets
    import pyarrow

    if isinstance(error, str):
        error = getattr(datasets.exceptions, error, None) or getattr(pyarrow, error)
        error = error("secret"[:0])

    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(kind, match=message):
        hub_data.text_files("owner/set", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_split": "train"}, "names no dataset_path: give task.data"),
        ({"training_split": "train", "dataset_path": "x", "dataset_kwargs": ["a"]}, "dataset_kwargs is a list"),
    ],
)
def test_a_definition_that_does_not_say_where_its_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("CRASH_HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(yaml.dump(CHOICE | changes))
    with pytest.raises(InputError, match=message):
        resolve_task({"name": str(tmp_path / "mine.yaml")})
