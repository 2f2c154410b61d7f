"""A task's own code that draws random numbers draws those of lm-eval's command, in every stage and process."""

import inspect
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import numpy
import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from tasks.core.errors import InputError
from tasks.data.checks import check_inputs
from tasks.data.lm_eval.seeding import OTHER_SEED, PYTHON_SEED
from tasks.data.lm_eval_rows import answers
from tasks.data.resolving import resolve_task
from tasks.data.scoring import score
from tasks.data.sources import Split, TaskSource
from tasks.data.tokenize import load_examples
from tasks.data.wording import checked_task, digest_of
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.places import ROOT
from tests.store.inputs import write_rows
from tests.tasks.chain import write_model

SPLITS: tuple[Split, ...] = ("train", "validation", "scored")
# Which of the answers stands where is drawn by lot, as in GPQA.
SHUFFLING = """
import random, numpy, torch
own = random.Random(7)
def process_docs(rows):
    def place(row):
        choices = [row["right"], row["wrong"], row["other"]]
        {draw}
        return {{"first": choices[0], "second": choices[1], "third": choices[2], "label": choices.index(row["right"])}}
    return rows.map(place)
"""
DRAWS = {
    "random": "random.shuffle(choices)",
    "numpy": "numpy.random.shuffle(choices)",
    "torch": "choices = [choices[at] for at in torch.randperm(3).tolist()]",
}
UNSTEADY = {
    "a generator of its own": "random.Random().shuffle(choices)",
    "the system": "random.SystemRandom().shuffle(choices)",
    "the clock": "import time; random.Random(time.perf_counter_ns()).shuffle(choices)",
}
DEFINITION = """
task: lots
output_type: multiple_choice
doc_to_text: "{{question}} {{first}}, {{second}} or {{third}}?"
doc_to_choice: ["{{first}}", "{{second}}", "{{third}}"]
doc_to_target: label
process_docs: !function lots.process_docs
num_fewshot: 0
"""


def lots(folder: Path, draw: str, apart: bool = True, definition: str = DEFINITION) -> TaskSource:
    """Questions whose choices are shuffled by the task's own code; apart: train and test are two files."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"Who is {n}?", "right": f"r{n}", "wrong": f"w{n}", "other": f"o{n}"} for n in range(36)]
    write_rows(folder / "train.jsonl", rows[:24])
    write_rows(folder / "test.jsonl", rows[24:])
    files = f"{{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}"
    names = "training_split: train\n" + ("test_split: test\n" if apart else "validation_split: train\n")
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {files}, cache_dir: {folder}/cache}}\n"
    (folder / "lots.yaml").write_text(definition + names + data)
    (folder / "lots.py").write_text(SHUFFLING.format(draw=draw))
    return resolve_task({"name": str(folder / "lots.yaml")})


class Silent(LM):
    """A model that finds every answer equally likely."""

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [0.0] * len(requests)

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [""] * len(requests)


def stock(folder: Path, limit: int) -> list[tuple[int, list[tuple[str, str]]]]:
    """Label of each row, and what is asked about it, as lm-eval's own command reads them."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=Silent(), tasks=["lots"], task_manager=manager, limit=limit, bootstrap_iters=0
    )
    assert found is not None
    return [(each["doc"]["label"], [tuple(pair) for pair in each["arguments"]]) for each in found["samples"]["lots"]]


def digests(task: TaskSource) -> dict[str, str]:
    return {split: digest_of(pair.mark for pair in answers(task, split)) for split in SPLITS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A tiny model with a tokenizer of words."""
    return write_model(tmp_path_factory.mktemp("model"))[1]


def test_the_seeds_are_those_of_lm_evals_command() -> None:
    given = inspect.signature(inspect.unwrap(lm_eval.simple_evaluate)).parameters
    assert given["random_seed"].default == PYTHON_SEED
    assert given["numpy_random_seed"].default == given["torch_random_seed"].default == OTHER_SEED


@pytest.mark.parametrize("apart", [True, False])
def test_scored_rows_are_those_of_lm_evals_command(tmp_path: Path, apart: bool) -> None:
    task = lots(tmp_path / "task", "; ".join(DRAWS.values()), apart)
    ours = list(answers(task, "scored"))
    theirs = stock(tmp_path / "task", limit=12)
    assert len(ours) == len(theirs) == 12
    for pair, (label, arguments) in zip(ours, theirs, strict=True):
        assert (pair.prompt, pair.answer) == arguments[label]
    # Labels differ, so that a shuffle that did nothing would not pass.
    assert len({label for label, _ in theirs}) == 3


def test_the_generators_of_the_process_go_on_as_before(tmp_path: Path, model: ModelSource) -> None:
    task = lots(tmp_path, "; ".join(DRAWS.values()))
    random.seed(3)
    numpy.random.seed(3)
    torch.manual_seed(3)
    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for split in SPLITS:
        load_examples(task, split, load_tokenizer(model), model.context)
    score(load_model(model), load_tokenizer(model), task, max_length=model.context)
    after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


def test_a_generator_of_the_code_begins_anew_for_every_split(tmp_path: Path) -> None:
    task = lots(tmp_path, "own.shuffle(choices)")
    alone = [pair.answer for pair in answers(task, "train")]
    assert [digests(task), digests(task)] == [digests(task)] * 2
    assert [pair.answer for pair in answers(task, "train")] == alone


@pytest.mark.parametrize("draw", UNSTEADY)
def test_code_that_words_rows_anew_is_refused(tmp_path: Path, model: ModelSource, draw: str) -> None:
    task = lots(tmp_path, UNSTEADY[draw])
    with pytest.raises(InputError, match=r"'lots': its own code words the train rows anew .* a fixed seed") as caught:
        check_inputs(model, task)
    assert "Who is" not in str(caught.value)


def test_stages_word_what_the_check_saw(tmp_path: Path, model: ModelSource) -> None:
    task = lots(tmp_path, DRAWS["random"])
    facts = check_inputs(model, task)
    assert facts["scored_digest"].startswith("12:")
    checked = checked_task(task, facts)
    assert checked.cache_view() == task.cache_view()
    tokenizer = load_tokenizer(model)
    for split in SPLITS:
        assert load_examples(checked, split, tokenizer, model.context).digest == facts[f"{split}_digest"]
    scores = score(load_model(model), tokenizer, checked, max_length=model.context)
    assert scores.digest == facts["scored_digest"]
    other = checked.model_copy(update={"worded": {"scored": "12:0000000000000000"}})
    with pytest.raises(InputError, match="words the scored rows anew"):
        load_examples(other, "scored", tokenizer, model.context)
    with pytest.raises(InputError, match="words the scored rows anew"):
        score(load_model(model), tokenizer, other, max_length=model.context)
    # A stage that takes fewer rows has another digest, which says nothing.
    load_examples(other, "scored", tokenizer, model.context, limit=3)


def test_drawing_while_a_row_is_worded(tmp_path: Path, model: ModelSource) -> None:
    """Prompts are drawn too, not only the places of choices."""
    task = lots(tmp_path, DRAWS["random"], definition=DEFINITION.replace('"{{question}}', "!function lots.ask #"))
    with open(tmp_path / "lots.py", "a") as code:
        code.write("def ask(row):\n    return random.choice(['Say:', 'Now:']) + row['question']\n")
    assert len({str(pair.prompt)[:4] for pair in answers(task, "scored")}) == 2
    checked = checked_task(task, check_inputs(model, task))
    scores = score(load_model(model), load_tokenizer(model), checked, max_length=model.context)
    assert scores.digest == checked.worded["scored"]


def test_another_process_words_the_same_rows(tmp_path: Path) -> None:
    task = lots(tmp_path, "; ".join(DRAWS.values()), apart=False)
    program = "from tests.data.test_wording import *; print(digests(TaskSource.model_validate_json(sys.argv[1])))"
    environment = os.environ | {"PYTHONHASHSEED": "4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", program, task.model_dump_json()]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert printed.stdout.strip() == str(digests(task)), printed.stderr
