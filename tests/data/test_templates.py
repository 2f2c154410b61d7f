"""The published tasks: the default wording is what lm-eval scores, the reference differs in the delimiter alone."""

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tasks.core.errors import InputError
from tasks.data.lm_eval_rows import Pair, answers
from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.data.templates import PUBLISHED
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import QA_TASKS, real_task, right_request, write_rows

STOCK = Path(lm_eval.__file__).parent / "tasks"


def copa(number: int) -> dict:
    """A row of COPA in the form of `aps/super_glue`."""
    kind, label = ("cause", "effect")[number % 2], number % 2
    return {
        "premise": f"The man broke toe {number}.",
        "choice1": "He got a hole in his sock.",
        "choice2": "He dropped a hammer on his foot.",
        "question": kind,
        "idx": number,
        "label": label,
    }


def trivia(number: int) -> dict:
    """A row of TriviaQA in the form of `mandarjoshi/trivia_qa`, `rc.nocontext`."""
    aliases = [f"Number {number}", f"The {number}", "That one"]
    return {"question": f"Which one is {number}", "answer": {"value": aliases[0], "aliases": aliases}}


def boolq(number: int) -> dict:
    """A row of BoolQ in the form of `aps/super_glue`."""
    return {"question": f"is {number} even", "passage": f"About {number}.", "idx": number, "label": 1 - number % 2}


def story(number: int) -> dict:
    """A row of StoryCloze in the form of `LSDSem/story_cloze`."""
    sentences = {f"input_sentence_{at}": f"Sentence {at} of {number}." for at in range(1, 5)}
    quiz = {"sentence_quiz1": "All ended well.", "sentence_quiz2": "All ended badly."}
    return {"story_id": str(number), **sentences, **quiz, "answer_right_ending": 1 + number % 2}


OWN: dict[str, tuple[str, Any, tuple[str, str]]] = {
    "copa": ("super_glue/copa/default", copa, ("The man broke toe 1 therefore", "  he dropped a hammer on his foot.")),
    "triviaqa": ("triviaqa/default", trivia, ("Question: Which one is 1?\nAnswer:", " Number 1")),
    "boolq": ("super_glue/boolq/default", boolq, ("About 1.\nQuestion: is 1 even?\nAnswer:", " no")),
    "storycloze_2016": (
        "storycloze/storycloze_2016",
        story,
        ("Sentence 1 of 1. Sentence 2 of 1. Sentence 3 of 1. Sentence 4 of 1.", " All ended badly."),
    ),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of the hand-written tasks."""
    root = tmp_path_factory.mktemp("rows")
    for name, (_, make, _) in OWN.items():
        for split, start in (("train", 1), ("validation", 6), ("test", 11)):
            write_rows(root / name / f"{split}.jsonl", [make(number) for number in range(start, start + 5)])
    return root


def source(rows: Path, name: str, template: str = "default") -> TaskSource:
    return resolve_task({"name": name, "data": str(rows / name), "template": template})


def pairs(task: TaskSource) -> list[Pair]:
    return list(answers(task, "train"))


def stock(rows: Path, name: str, folder: Path) -> Any:
    """lm-eval's own task object, made by its own loader, scoring the training rows."""
    definition = {
        "include": str(STOCK / f"{OWN[name][0]}.yaml"),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"test": str(rows / name / "train.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    (folder / f"{name}.yaml").write_text(yaml.dump(definition))
    task = TaskManager(include_path=str(folder), include_defaults=False).load([name])["tasks"][name]
    task.build_all_requests()
    return task


@pytest.mark.parametrize("name", OWN)
def test_a_row_reads_as_the_stock_definition_words_it(rows: Path, name: str) -> None:
    first = pairs(source(rows, name))[0]
    assert (first.prompt, first.answer) == OWN[name][2]


@pytest.mark.parametrize("name", OWN)
def test_default_text_gets_the_point_from_lm_eval(rows: Path, tmp_path: Path, name: str) -> None:
    theirs = stock(rows, name, tmp_path)
    for number, pair in enumerate(pairs(source(rows, name))):
        requests = [request for request in theirs.instances if request.doc_id == number]
        if name == "triviaqa":
            [request] = requests
            assert request.args[0] == pair.prompt
            assert theirs.process_results(request.doc, [pair.answer.strip()]) == {"exact_match": 1.0}
        else:
            assert right_request(theirs, requests).args == (pair.prompt, pair.answer)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_training_ids_are_those_of_lm_evals_model(
    models: dict[str, ModelSource], rows: Path, name: str, family: str
) -> None:
    model, task = models[family], source(rows, name)
    tokenizer = load_tokenizer(model)
    reference = HFLM(pretrained=load_model(model), tokenizer=tokenizer)
    found = load_examples(task, "train", tokenizer, model.context).rows
    for pair, row in zip(pairs(task), found, strict=True):
        assert (list(row.prompt_ids), list(row.answer_ids)) == reference._encode_pair(pair.prompt, pair.answer)


def require_reference(default: TaskSource, tokenizer: Any) -> None:
    """The reference differs from the default by one blank between prompt and answer, and by no other letter."""
    published = default.model_copy(update={"template": "reference"})
    usual, without = (list(answers(task, "train")) for task in (default, published))
    assert [(pair.prompt, pair.answer) for pair in usual] == [(pair.prompt, " " + pair.answer) for pair in without]
    rows = load_examples(published, "train", tokenizer, 100_000).rows
    for pair, row in zip(without, rows, strict=True):
        assert list(row.prompt_ids) == tokenizer.encode(pair.prompt)
        assert list(row.answer_ids) == tokenizer.encode(pair.answer, add_special_tokens=False)


@pytest.mark.parametrize("name", OWN)
def test_the_reference_of_hand_written_rows(models: dict[str, ModelSource], rows: Path, name: str) -> None:
    require_reference(source(rows, name), load_tokenizer(models["opt"]))


@pytest.mark.parametrize("name", QA_TASKS)
def test_the_reference_of_the_tasks_rows(models: dict[str, ModelSource], real_data: Path, name: str) -> None:
    require_reference(real_task(real_data, name), load_tokenizer(models["opt"]))


def test_joined_letters_do_not_change_the_answer(models: dict[str, ModelSource], real_data: Path) -> None:
    """Encoded together, a prompt without a delimiter and its answer would share tokens."""
    task = real_task(real_data, "openbookqa").model_copy(update={"template": "reference"})
    tokenizer = load_tokenizer(models["opt"])
    rows = load_examples(task, "train", tokenizer, 512).rows
    assert [tokenizer.decode(row.answer_ids) for row in rows] == [pair.answer for pair in answers(task, "train")]


def test_both_templates_are_scored_alike(rows: Path) -> None:
    from tasks.data.lm_eval_rows import harness_task

    requests = []
    for template in ("default", "reference"):
        task = harness_task(source(rows, "boolq", template), "scored")
        task.build_all_requests()
        requests.append([request.args for request in task.instances])
    assert requests[0] == requests[1]
    assert source(rows, "boolq", "reference").cache_view() != source(rows, "boolq").cache_view()


def test_alpaca_is_an_instruction_file(models: dict[str, ModelSource], tmp_path: Path) -> None:
    # Of 40 rows, the first four validate.
    rows = [{"instruction": "Add one", "input": str(number), "output": str(number + 1)} for number in range(37, 77)]
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(rows))
    settings = {"name": "alpaca", "kind": "instructions", "data": str(path)}
    tokenizer = load_tokenizer(models["opt"])
    default, published = (
        load_examples(resolve_task(settings | {"template": name}), "train", tokenizer, 512).rows[0]
        for name in ("default", "reference")
    )
    text = tokenizer.decode([*default.prompt_ids, *default.answer_ids], skip_special_tokens=True)
    assert text == "Instruction: Add one\nInput: 41\nAnswer: 42"
    assert tokenizer.decode(published.prompt_ids).endswith("### Input:\n41\n\n### Response:")
    assert tokenizer.decode(published.answer_ids) == "42"


def test_a_task_without_published_wording_lists_those_that_have_one(rows: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [copa(1)])
    write_rows(tmp_path / "test.jsonl", [copa(1)])
    with pytest.raises(InputError) as caught:
        resolve_task({"name": "winogrande", "data": str(tmp_path), "template": "reference"})
    assert all(name in str(caught.value) for name in [*PUBLISHED, "instructions"])
    with pytest.raises(InputError, match="plain text has no prompt"):
        resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path), "template": "reference"})
    with pytest.raises(InputError, match="choose one of default, chat, reference"):
        resolve_task({"name": "copa", "data": str(rows / "copa"), "template": "published"})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("web_questions", "webqs"),
        ("trivia_qa", "triviaqa"),
        ("story_cloze", "storycloze_2016 or storycloze_2018"),
        ("alpaca", 'task.kind = "instructions"'),
    ],
)
def test_the_published_names_lead_to_those_of_lm_eval(tmp_path: Path, name: str, ours: str) -> None:
    with pytest.raises(InputError, match=f"unknown task '{name}': here it is {ours}"):
        resolve_task({"name": name, "data": str(tmp_path)})
