"""Tasks as inputs: what is trained is what lm-eval scores, splits never leak, and every bad row has its own message."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from tasks.core.errors import EnvironmentFault, InputError
from tasks.data.checks import check_inputs
from tasks.data.lm_eval_rows import answers
from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.data.splits.division import split_rows
from tasks.data.token_ids import encode_pair
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.places import ROOT
from tests.store.inputs import (
    LIMIT,
    QA_TASKS,
    SCORES_VALIDATION,
    own_task,
    question,
    real_task,
    right_request,
    stock_tasks,
    stories,
    write_rows,
)


@pytest.fixture(scope="module")
def stock(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """lm-eval's own tasks, scoring the training rows."""
    return stock_tasks(real_data, tmp_path_factory.mktemp("stock") / "yaml", QA_TASKS, split="train")


@pytest.fixture
def source(real_data: Path) -> ModelSource:
    """A model to check tasks with."""
    return stories(real_data)


@pytest.mark.parametrize("name", QA_TASKS)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_training_ids_are_those_that_lm_eval_scores(
    models: dict[str, ModelSource], stock: dict[str, Any], real_data: Path, name: str, family: str
) -> None:
    source, theirs = models[family], stock[name]
    reference = HFLM(pretrained=load_model(source), tokenizer=load_tokenizer(source))
    held_out = 0
    if name in SCORES_VALIDATION:
        held_out = round(0.05 * len((real_data / "tasks" / name / "train.jsonl").read_text().splitlines()))
    theirs.build_all_requests(limit=held_out + LIMIT)
    by_row: dict[int, list[Any]] = {}
    for request in theirs.instances:
        by_row.setdefault(request.doc_id, []).append(request)

    ours = load_examples(real_task(real_data, name), "train", load_tokenizer(source), source.context)

    assert [row.row for row in ours.rows] == list(range(held_out + 1, held_out + LIMIT + 1))
    num_cut = 0
    for row in ours.rows:
        before, scored = reference._encode_pair(*right_request(theirs, by_row[row.row - 1]).args)
        num_cut += len(before) + len(scored) > source.context
        assert list(row.answer_ids) == scored
        assert list(row.prompt_ids + row.answer_ids) == (before + scored)[-source.context :]
    assert ours.num_truncated == num_cut


def test_prompts_longer_than_the_context_are_cut_and_counted(real_data: Path) -> None:
    examples = load_examples(real_task(real_data, "race"), "train", load_tokenizer(stories(real_data)), 512)
    assert examples.num_truncated > 0
    assert max(row.num_tokens for row in examples.rows) == 512


@pytest.mark.parametrize(
    "text", [("Q:", " a b"), ("Q: ", "a"), ("", " a"), ("  ", "a"), ("</s>x", " y"), ("<s>x", " y")]
)
def test_pairs_are_encoded_by_lm_evals_rule(models: dict[str, ModelSource], text: tuple[str, str]) -> None:
    for source in models.values():
        tokenizer = load_tokenizer(source)
        reference = HFLM(pretrained=load_model(source), tokenizer=tokenizer)
        if text[0] == "":
            ids = reference.tok_encode(text[1], add_special_tokens=False)
            assert encode_pair(tokenizer, *text) == ([reference.prefix_token_id], ids)
        else:
            assert encode_pair(tokenizer, *text) == reference._encode_pair(*text)


def test_wikitext_is_cut_into_windows_that_predict_every_token_once(real_data: Path) -> None:
    source = stories(real_data)
    tokenizer = load_tokenizer(source)
    task = real_task(real_data, "wikitext", num_train=2)
    examples = load_examples(task, "train", tokenizer, 128)
    assert examples.num_rows == 2
    assert max(row.num_tokens for row in examples.rows) == 128
    for pair in answers(task, "train"):
        whole = tokenizer.encode(pair.answer)
        windows = [row for row in examples.rows if row.row == pair.number]
        assert [token for row in windows for token in row.answer_ids] == whole
        assert windows[0].prompt_ids == (tokenizer.bos_token_id,)
        assert all(after.prompt_ids == before.answer_ids[-1:] for before, after in pairwise(windows))


@pytest.mark.parametrize("name", QA_TASKS)
def test_no_scored_row_is_trained_on_or_selects(real_data: Path, name: str) -> None:
    task = real_task(real_data, name, num_train=None, num_validation=None, num_test=None)
    rows = {split: split_rows(task, split) for split in ("train", "validation", "scored")}
    if name in SCORES_VALIDATION:
        assert task.scored == "validation"
        # The rows of train are parted, none lost, none twice.
        total = len((real_data / "tasks" / name / "train.jsonl").read_text().splitlines())
        assert [row.number for row in rows["validation"] + rows["train"]] == list(range(1, total + 1))
        assert len(rows["validation"]) == round(0.05 * total)
    files = {split: task.file(split) for split in ("train", "validation", "scored")}
    assert files["scored"] not in (files["train"], files["validation"])


def test_parts_of_the_support_set(real_data: Path) -> None:
    tokenizer, task = load_tokenizer(stories(real_data)), real_task(real_data, "arc_easy")
    whole = load_examples(task, "validation", tokenizer, 512, limit=3).rows
    prompts = load_examples(task, "validation", tokenizer, 512, limit=3, part="prompt").rows
    only = load_examples(task, "validation", tokenizer, 512, limit=3, part="answer").rows
    assert [(one.prompt_ids, two.answer_ids) for one, two in zip(prompts, only, strict=True)] == [
        (row.prompt_ids, row.answer_ids) for row in whole
    ]
    assert not any(one.answer_ids or two.prompt_ids for one, two in zip(prompts, only, strict=True))
    with pytest.raises(InputError, match=r"choose one of prompt\+answer, prompt, answer"):
        load_examples(task, "validation", tokenizer, 512, part="context")


def test_limits_are_part_of_the_identity_and_places_are_not(real_data: Path, tmp_path: Path) -> None:
    task = real_task(real_data, "hellaswag")
    moved = Path(shutil.copytree(real_data / "tasks" / "hellaswag", tmp_path / "rows"))
    same = resolve_task({"name": "hellaswag", "data": str(moved)} | {f"num_{at}": LIMIT for at in ("train", "test")})
    assert same.digest == task.digest
    assert same.cache_view() != task.cache_view()  # its num_validation is not set
    lines = (moved / "train.jsonl").read_text().splitlines(keepends=True)
    (moved / "train.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert resolve_task({"name": "hellaswag", "data": str(moved)}).digest != task.digest


def test_a_task_of_ones_own_is_identified_by_wording_and_code(tmp_path: Path) -> None:
    definition = {"task": "mine", "output_type": "multiple_choice", "doc_to_text": "!", "doc_to_choice": "choices"}
    text = (
        "\n".join(f"{key}: {value!r}" for key, value in definition.items()) + "\ndoc_to_target: !function words.gold\n"
    )
    write_rows(tmp_path / "train.jsonl", [question()])
    write_rows(tmp_path / "test.jsonl", [question()])
    (tmp_path / "words.py").write_text("def gold(doc):\n    return 1\n")

    def digest(yaml: str = text, code: str | None = None) -> str:
        (tmp_path / "mine.yaml").write_text(yaml)
        if code:
            (tmp_path / "words.py").write_text(code)
        return resolve_task({"name": "mine", "data": str(tmp_path)}).digest

    first = digest()
    assert digest("# a remark\n" + text) == first
    assert digest(text.replace("!'", "?'")) != first
    assert digest(code="def gold(doc):\n    return 2\n") != first


def test_names_are_found_and_unknown_ones_answered_with_similar_ones(real_data: Path) -> None:
    data = str(real_data / "tasks" / "openbookqa")
    for name, message in [
        ("openbokqa", "unknown task 'openbokqa': did you mean openbookqa"),
        ("ai2_arc", "is a group of tasks"),
        ("squadv2", "defined by Python code"),
        ("nothing/here.yaml", "there is no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_task({"name": name, "data": data})


WORDINGS: dict[str, tuple[dict, tuple[str, str]]] = {
    # Two prompts and one ending, the label picks the prompt.
    "winogrande": (
        {"sentence": "Tom hit Bob because _ was mad", "option1": "Tom", "option2": "Bob", "answer": "2"},
        ("Tom hit Bob because Bob", " was mad"),
    ),
    # A label that is a letter.
    "logiqa": (
        {"label": "b", "context": "It is.", "question": "what?", "options": ["A", "B", "C", "D"]},
        ("Passage: It is.\nQuestion: what?\nChoices:\nA. A\nB. B\nC. C\nD. D\nAnswer:", " B"),
    ),
    # One ending only.
    "lambada_openai": ({"text": "There was a girl"}, ("There was a", " girl")),
    # The model writes; several answers are right.
    "nq_open": (
        {"question": "who is it", "answer": ["Lily", "Lil"]},
        ("Answer these questions:\n\nQ: who is it?\nA:", " Lily"),
    ),
}


@pytest.mark.parametrize("name", WORDINGS)
def test_other_forms_of_tasks(tmp_path: Path, name: str) -> None:
    row, expected = WORDINGS[name]
    pairs = list(answers(own_task(tmp_path, [row] * 3, [row], name), "scored"))
    assert [(pair.prompt, pair.answer) for pair in pairs] == [expected]


def test_rows_of_the_embedded_task_are_found_through_its_yaml() -> None:
    folder = ROOT / "flows" / "demo" / "task"
    by_folder = resolve_task({"name": "people", "data": str(folder)})
    by_file = resolve_task({"name": str(folder / "people.yaml")})
    assert by_folder.files == by_file.files
    assert by_folder.digest == by_file.digest
    assert len(split_rows(by_folder, "train")) == 720


# Hub


def test_a_hub_task_is_copied_once_and_then_local(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    calls = []

    def load(path: str, name: str | None, **options: Any) -> datasets.DatasetDict:
        calls.append((path, name, options))
        data = datasets.Dataset.from_list([question(number) for number in range(6)])
        parts = {"train": range(3), "validation": range(3, 5), "test": range(5, 6)}
        return datasets.DatasetDict({split: data.select(rows) for split, rows in parts.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.setenv("CRASH_HOME", str(tmp_path))
    first = resolve_task({"name": "arc_challenge"})
    assert calls == [("allenai/ai2_arc", "ARC-Challenge", {})]
    assert resolve_task({"name": "arc_challenge"}) == first
    assert len(calls) == 1
    examples = load_examples(first, "train", load_tokenizer(stories(real_data)), 512)
    assert examples.num_rows == 3


def test_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.setenv("CRASH_HOME", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"data hub cannot be reached for allenai/openbookqa.*task\.data"):
        resolve_task({"name": "openbookqa"})
    assert not list(tmp_path.rglob("*.jsonl"))


# Bad input


def refuse(source: ModelSource, task: TaskSource, message: str) -> None:
    """The task is refused with a message that matches and that quotes no row."""
    with pytest.raises(InputError, match=message) as caught:
        check_inputs(source, task)
    assert "What comes after" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_facts_of_good_input(source: ModelSource, real_data: Path) -> None:
    facts = check_inputs(source, real_task(real_data, "piqa"))
    assert facts["num_train_rows"] == facts["num_validation_rows"] == facts["num_scored_rows"] == LIMIT
    assert (facts["scored_split"], facts["validation_from"]) == ("validation", "train")
    assert facts["has_prompts"]
    assert facts["context"] == 512


def test_no_training_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'race' has no training split: its definition names only test"):
        resolve_task({"name": "race"})
    write_rows(tmp_path / "test.jsonl", [question()])
    with pytest.raises(InputError, match=r"'arc_easy' has no training split: the folder .* has only test"):
        resolve_task({"name": "arc_easy", "data": str(tmp_path)})


def test_nothing_to_score(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [question()])
    with pytest.raises(InputError, match="nothing to score"):
        resolve_task({"name": "arc_easy", "data": str(tmp_path)})


def test_places_without_data(tmp_path: Path) -> None:
    for data, message in [(tmp_path, "has no data files: expected train.jsonl"), (tmp_path / "no", "no such folder")]:
        with pytest.raises(InputError, match=message):
            resolve_task({"name": "arc_easy", "data": str(data)})


def test_an_empty_split(source: ModelSource, tmp_path: Path) -> None:
    refuse(source, own_task(tmp_path, []), r"train\.jsonl is empty")


def test_a_training_split_too_small_to_hold_rows_out(source: ModelSource, tmp_path: Path) -> None:
    refuse(source, own_task(tmp_path, [question()]), "no row is left for train")


def test_a_row_that_is_no_json(source: ModelSource, tmp_path: Path) -> None:
    task = own_task(tmp_path, [question(), question(1)])
    (tmp_path / "train.jsonl").write_text(json.dumps(question()) + "\n" + '{"question": "What comes after', "utf-8")
    refuse(source, task, r"train\.jsonl, row 2: not valid JSON")


def test_a_row_that_is_no_object(source: ModelSource, tmp_path: Path) -> None:
    task = own_task(tmp_path, [question()])
    (tmp_path / "train.jsonl").write_text('["What comes after"]\n')
    refuse(source, task, r"train\.jsonl, row 1: it is a list")


@pytest.mark.parametrize("field", ["question", "choices", "answerKey"])
@pytest.mark.parametrize("row", [0, 2])
def test_a_row_that_misses_a_field(source: ModelSource, tmp_path: Path, field: str, row: int) -> None:
    rows = [question(number, **({field: None} if number == row else {})) for number in range(24)]
    refuse(source, own_task(tmp_path, rows), rf"train\.jsonl, row {row + 1}: it lacks the field '{field}'")


def test_a_field_that_all_rows_miss(source: ModelSource, tmp_path: Path) -> None:
    rows = [question(number, question=None) for number in range(24)]
    refuse(source, own_task(tmp_path / "named", rows), "row 5: it lacks the field 'question', which task 'arc_easy'")
    row = {"ind": 1, "ctx_b": "x", "endings": ["a", "b"], "label": "0"}
    rows = [row | {"ctx_a": f"What comes after {number}"} for number in range(25)]
    task = own_task(tmp_path / "code", rows[:24], rows[24:], "hellaswag")
    refuse(source, task, "row 5: it lacks the field 'activity_label', which task 'hellaswag' reads")


def test_a_field_that_the_task_does_not_read_may_be_missing(source: ModelSource, tmp_path: Path) -> None:
    rows = [question(number, **({"id": None} if number % 2 else {})) for number in range(24)]
    assert check_inputs(source, own_task(tmp_path, rows))["num_train_rows"] == 20


def test_fields_of_different_kinds(source: ModelSource, tmp_path: Path) -> None:
    rows = [question(number, **({"question": 7} if number == 5 else {})) for number in range(24)]
    refuse(source, own_task(tmp_path, rows), r"row 6: the field 'question' is a int, in row 5 it is a str")


def test_labels_out_of_range(source: ModelSource, tmp_path: Path) -> None:
    rows = [question(number, **({"answerKey": "E"} if number == 7 else {})) for number in range(24)]
    refuse(source, own_task(tmp_path / "letters", rows), r"row 8: task 'arc_easy' cannot read it")
    goals = [{"goal": f"What comes after {at}", "sol1": "a", "sol2": "b", "label": 0} for at in range(24)]
    for label in (2, -1):
        task = own_task(tmp_path / str(label), [*goals[:-1], goals[-1] | {"label": label}], goals[:1], "piqa")
        refuse(source, task, rf"row 24: the label is {label}, out of range for 2 choices \(0 to 1\)")


def test_an_answer_longer_than_the_context(source: ModelSource, tmp_path: Path) -> None:
    long = {"text": ["one", "two " * 600, "three"], "label": ["A", "B", "C"]}
    task = own_task(tmp_path, [question(0), question(1), question(2, choices=long)])
    refuse(source, task, r"train row 3: the answer has \d+ tokens, the model takes 512")


def test_a_tokenizer_of_another_model(real_data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real_data / "models" / "stories260K", tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    for file in (real_data / "tokenizers" / "llama").iterdir():
        shutil.copy(file, folder)
    from tasks.models.resolving import resolve_model

    with pytest.raises(InputError, match=r"its embedding has 512 rows .* not this model's"):
        check_inputs(resolve_model(str(folder)), real_task(real_data, "arc_easy"))


# Plain text and instructions


def test_plain_text(real_data: Path, source: ModelSource, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(source)
    (tmp_path / "train.txt").write_text("The sun is up. " * 400)
    write_rows(tmp_path / "test.jsonl", [{"text": "The moon."}, {"text": " "}, {"text": "A star."}])
    (tmp_path / "valid.csv").write_text('text\n"A cat, a dog"\n')
    task = resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path)})
    train = load_examples(task, "train", tokenizer, 64)
    assert [token for row in train.rows for token in row.answer_ids] == tokenizer.encode(
        "The sun is up. " * 400, add_special_tokens=False
    )
    assert [row.row for row in load_examples(task, "scored", tokenizer, 64).rows] == [1, 3]
    assert load_examples(task, "validation", tokenizer, 64).num_rows == 1
    assert check_inputs(source, task)["scored_split"] == "test"


def test_documents_have_no_prompt(real_data: Path) -> None:
    for task in (
        real_task(real_data, "wikitext"),
        resolve_task({"name": "mine", "kind": "text", "data": str(real_data / "text" / "wikitext")}),
    ):
        with pytest.raises(InputError, match=r"support\.part = 'prompt'"):
            load_examples(task, "validation", load_tokenizer(stories(real_data)), 64, limit=1, part="prompt")


def test_bad_text_rows(source: ModelSource, tmp_path: Path) -> None:
    rows: list[tuple[dict, str]] = [
        ({"words": "What comes after"}, "row 2: it lacks the field 'text'; each row needs 'text'"),
        ({"text": ["What comes after"]}, "row 2: 'text' is a list, expected a string or a number"),
    ]
    for row, message in rows:
        write_rows(tmp_path / "train.jsonl", [{"text": "a"}, row, {"text": "b"}])
        write_rows(tmp_path / "test.jsonl", [{"text": "a"}])
        refuse(source, resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path)}), message)


def test_instructions_in_one_file_are_parted(source: ModelSource, tmp_path: Path) -> None:
    lines = [f'"Add one to {number}",,"It is {number + 1}"' for number in range(40)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["instruction,input,output", *lines]) + "\n")
    task = resolve_task({"name": "mine", "kind": "instructions", "data": str(path)})
    numbers = {split: [row.number for row in split_rows(task, split)] for split in ("validation", "train", "scored")}
    assert numbers == {"validation": [1, 2, 3, 4], "train": list(range(5, 37)), "scored": [37, 38, 39, 40]}
    [row, *_] = load_examples(task, "train", load_tokenizer(source), 512).rows
    tokenizer = load_tokenizer(source)
    assert tokenizer.decode(row.prompt_ids[1:]) == "Instruction: Add one to 4\nAnswer:"
    assert tokenizer.decode(row.answer_ids).strip() == "It is 5"


def test_the_published_wording(source: ModelSource, tmp_path: Path) -> None:
    rows = [{"instruction": "Add {one}", "input": str(number), "output": str(number + 1)} for number in (40, 41, 42)]
    write_rows(tmp_path / "train.jsonl", rows[:2])
    write_rows(tmp_path / "test.jsonl", rows[2:])
    settings = {"name": "mine", "kind": "instructions", "data": str(tmp_path)}
    task = resolve_task(settings | {"template": "reference"})
    tokenizer = load_tokenizer(source)
    text = tokenizer.decode(load_examples(task, "train", tokenizer, 512).rows[0].prompt_ids)
    assert "### Instruction:\nAdd {one}\n\n### Input:\n41\n\n### Response:" in text
    assert task.cache_view() != resolve_task(settings).cache_view()
    with pytest.raises(InputError, match="choose one of default, chat, reference"):
        resolve_task(settings | {"template": "mine"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "What comes after"}, "row 3: it lacks the field 'output'"),
        ({"instruction": "What comes after", "output": " "}, "row 3: 'output' is empty"),
        ({"instruction": ["What comes after"], "output": "x"}, "row 3: 'instruction' is a list"),
    ],
)
def test_bad_instruction_rows(source: ModelSource, tmp_path: Path, row: dict, message: str) -> None:
    good = [{"instruction": letter, "output": "b"} for letter in "acde"]
    write_rows(tmp_path / "train.jsonl", [*good[:2], row, good[2]])
    write_rows(tmp_path / "test.jsonl", good[3:])
    refuse(source, resolve_task({"name": "mine", "kind": "instructions", "data": str(tmp_path)}), message)
