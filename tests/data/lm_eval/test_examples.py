"""Prompts with examples are those of lm-eval's command, and examples never come from scored rows."""

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.data.checks import check_inputs
from tasks.data.lengths import measure
from tasks.data.lm_eval_rows import harness_task, without_bars
from tasks.data.pass_limits import PassLimit
from tasks.data.resolving import resolve_task
from tasks.data.scoring import score
from tasks.data.sources import TaskSource
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import LIMIT, own_task, question, real_task, stock_file, stories, write_rows

SHOTS = 3
TASKS = ("arc_easy", "openbookqa")
Score = dict[str, Any]


@pytest.fixture
def source(real_data: Path) -> ModelSource:
    """A model with a context of 512 tokens."""
    return stories(real_data)


def stock(real_data: Path, folder: Path, name: str, model: ModelSource, **how: Any) -> dict[str, Any]:
    """Results of lm-eval's own command for the first rows, with examples from the training rows."""
    folder.mkdir()
    files = {split: str(real_data / "tasks" / name / f"{split}.jsonl") for split in ("train", "test")}
    task = {
        "include": stock_file(name),
        **{"task": name, "dataset_path": "json", "dataset_name": None},
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        **{"training_split": "train", "validation_split": None, "test_split": "test"},
    }
    (folder / f"{name}.yaml").write_text(yaml.dump(task))
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=model.path, device="cpu", dtype="float32", batch_size=4, max_length=512),
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        limit=LIMIT,
        bootstrap_iters=0,
        **how,
    )
    assert found is not None
    return found


def prompts(task: TaskSource, shots: int = SHOTS) -> list[str]:
    with without_bars():
        definition = harness_task(task, "scored", shots)
        definition.build_all_requests()
    return [request.args[0] for request in definition.instances]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_and_scores_are_those_of_lm_evals_command(
    real_data: Path, tmp_path: Path, source: ModelSource, name: str
) -> None:
    theirs = stock(real_data, tmp_path / "yaml", name, source, num_fewshot=SHOTS)
    task = real_task(real_data, name, num_train=None)
    expected = [
        argument[0]
        for sample in sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
        for argument in sample["arguments"]
    ]
    assert prompts(task) == expected
    found = score(load_model(source), load_tokenizer(source), task, max_length=512, max_tokens=1500, num_fewshot=SHOTS)
    for metric, value in found.metrics.items():
        assert value == pytest.approx(theirs["results"][name][f"{metric},none"], rel=1e-5)
    zero = score(load_model(source), load_tokenizer(source), task, max_length=512, max_tokens=1500)
    assert found.digest == zero.digest
    assert zero.num_truncated == 0


CHOICES = """
output_type: multiple_choice
doc_to_choice: "{{choices.text}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
metric_list:
  - metric: acc
"""
WRITES = """
output_type: generate_until
doc_to_target: "{{choices.text[choices.label.index(answerKey)]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list:
  - metric: exact_match
"""
HEAD = r"""
task: mine
dataset_path: json
training_split: train
validation_split: validation
test_split: test
doc_to_text: "Q: {{question}}\nA:"
"""


def own(folder: Path, keys: str, kind: str = CHOICES) -> TaskSource:
    """A task whose definition has these keys for examples."""
    for split, first in (("train", 0), ("validation", 100), ("test", 200)):
        write_rows(folder / f"{split}.jsonl", [question(first + number) for number in range(10)])
    (folder / "mine.yaml").write_text(HEAD + kind + keys)
    return resolve_task({"name": "mine", "data": str(folder)})


FIRST = "fewshot_config:\n  sampler: first_n\n"


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        (FIRST, 0),
        (FIRST + "fewshot_split: train\n", 0),
        (FIRST + "fewshot_split: validation\n", 100),
        (FIRST + "  split: validation\n", 100),
        # The scored rows are never shown as examples.
        (FIRST + "fewshot_split: test\n", 0),
    ],
)
def test_examples_are_of_the_split_that_the_definition_names(tmp_path: Path, keys: str, first: int) -> None:
    task = own(tmp_path, keys)
    shown = [f"Q: What comes after {first + number}?\nA: two\n\n" for number in range(SHOTS)]
    assert prompts(task)[0] == "".join(shown) + "Q: What comes after 200?\nA:"
    assert prompts(task, 0)[0] == "Q: What comes after 200?\nA:"


def test_text_is_generated_after_examples(tmp_path: Path, source: ModelSource) -> None:
    task = own(tmp_path, FIRST, WRITES)
    assert prompts(task, 1)[0] == "Q: What comes after 0?\nA: two\n\nQ: What comes after 200?\nA:"
    found = score(load_model(source), load_tokenizer(source), task, max_length=512, num_fewshot=SHOTS)
    assert (found.metric, found.num_rows, found.num_truncated) == ("exact_match", 10, 0)


def test_a_task_whose_examples_cannot_be_worded_is_refused(real_data: Path, source: ModelSource) -> None:
    """lm-eval expects one answer as text, and WebQuestions has lists."""
    limit = PassLimit("evaluate.max_tokens", 8192, "scored", num_fewshot=2)
    with pytest.raises(InputError, match=r"task 'webqs'.*examples.*evaluate.num_fewshot = 0"):
        check_inputs(source, real_task(real_data, "webqs"), [limit])


def test_a_definition_may_bring_its_own_examples(tmp_path: Path) -> None:
    samples = json.dumps([question(number) for number in range(900, 902)])
    task = own(tmp_path, FIRST + f"  samples: {samples}\n")
    assert prompts(task, 2)[0].startswith("Q: What comes after 900?\nA: two\n\nQ: What comes after 901?")
    with pytest.raises(InputError, match=r"num_fewshot = 3, but task 'mine' has 2 rows to take examples from"):
        prompts(task)


def test_what_chooses_examples_belongs_to_the_task(tmp_path: Path) -> None:
    tasks = [own(tmp_path / str(number), keys) for number, keys in enumerate(("", FIRST, "num_fewshot: 4\n"))]
    assert tasks[0].digest != tasks[1].digest
    assert tasks[0].digest == tasks[2].digest


def test_whether_examples_are_rows_that_validate_belongs_to_the_task(tmp_path: Path) -> None:
    tasks = [own(tmp_path / split, FIRST + f"fewshot_split: {split}\n") for split in ("train", "validation", "other")]
    assert tasks[0].digest == tasks[2].digest != tasks[1].digest


def test_no_message_quotes_an_example(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def fail(rows):\n    raise ValueError(str(rows[0]))\n")
    task = own(tmp_path, "fewshot_config:\n  process_docs: !function code.fail\n")
    for failing in (task, own(tmp_path / "other", "fewshot_config:\n  sampler: unheard_of\n")):
        with pytest.raises(InputError, match=r"cannot word its rows .* Take evaluate.num_fewshot = 0") as info:
            prompts(failing, 2)
        assert "What comes after" not in str(info.value)


def test_more_examples_than_rows_are_refused(tmp_path: Path) -> None:
    task = own_task(tmp_path, [question(number) for number in range(6)])
    with pytest.raises(InputError, match=r"evaluate.num_fewshot = 40, but task 'arc_easy' has \d rows"):
        prompts(task, 40)


def test_documents_take_no_examples(real_data: Path) -> None:
    with pytest.raises(InputError, match="scores documents as a whole"):
        prompts(real_task(real_data, "wikitext", num_test=1))
    with pytest.raises(ValueError, match="only tasks of lm-eval have examples"):
        Settings.model_validate(
            {
                **{"model": {"name": "m"}, "task": {"name": "t", "kind": "text"}, "plan": {"num_kept": 6}},
                "evaluate": {"num_fewshot": 1},
            }
        )


def test_the_check_counts_prompts_that_lose_their_beginning_and_names_what_does_not_fit(
    real_data: Path, source: ModelSource
) -> None:
    task = real_task(real_data, "arc_easy", num_train=None)
    limit = PassLimit("evaluate.max_tokens", 512, "scored", choices=True, num_fewshot=10)
    facts = check_inputs(source, task, [limit])
    # The model takes 512 tokens, and a row has some forty.
    assert facts["num_fewshot"] == 10
    assert facts["num_fewshot_truncated"] > facts["num_fewshot_requests"] / 2
    found = score(load_model(source), load_tokenizer(source), task, max_length=512, num_fewshot=10)
    assert found.num_truncated == facts["num_fewshot_truncated"]
    with pytest.raises(InputError, match=r"with evaluate.num_fewshot = 10, a request takes 512 tokens .* take fewer"):
        check_inputs(source, task, [PassLimit("evaluate.max_tokens", 400, "scored", num_fewshot=10)])


def test_an_estimate_counts_the_examples(real_data: Path, source: ModelSource) -> None:
    task = real_task(real_data, "arc_easy", num_train=None)
    tokenizer = load_tokenizer(source)
    few, none = (measure(task, tokenizer, 512, shots).scored for shots in (SHOTS, 0))
    assert sum(few.tokens) > 2 * sum(none.tokens)
    assert few.num_rows == none.num_rows
