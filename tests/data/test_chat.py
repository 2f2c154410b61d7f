"""A task as a chat: prompts by the tokenizer's template, in training and scoring alike, and as lm-eval makes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tasks.core.errors import InputError
from tasks.data.chat import render
from tasks.data.lm_eval_rows import answers
from tasks.data.resolving import resolve_task, with_chat
from tasks.data.scoring import score
from tasks.data.sources import Chat, TaskSource
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tests.data.lm_eval.test_examples import FIRST, WRITES, own, prompts, stock
from tests.store.inputs import real_task, write_rows

TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


@pytest.fixture
def model(real_data: Path, tmp_path: Path) -> ModelSource:
    """A real small model whose tokenizer has a chat template."""
    folder = tmp_path / "chatty"
    shutil.copytree(real_data / "models" / "stories260K", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    return resolve_model(str(folder))


@pytest.fixture
def tokenizer(model: ModelSource) -> PreTrainedTokenizerBase:
    """Its tokenizer."""
    return load_tokenizer(model)


def in_chat(task: TaskSource, tokenizer: PreTrainedTokenizerBase) -> TaskSource:
    return with_chat(task.model_copy(update={"template": "chat"}), lambda: tokenizer, "it")


def test_prompts_and_scores_are_those_of_lm_evals_command(
    real_data: Path, tmp_path: Path, model: ModelSource, tokenizer: PreTrainedTokenizerBase
) -> None:
    name, shots = "arc_easy", 2
    how = {"num_fewshot": shots, "apply_chat_template": True, "fewshot_as_multiturn": True}
    theirs = stock(real_data, tmp_path / "yaml", name, model, **how)
    task = in_chat(real_task(real_data, name, num_train=None), tokenizer)
    samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
    expected = [argument[0] for sample in samples for argument in sample["arguments"]]
    assert expected[0].startswith("<s>[user] Question")
    assert expected[0].count("[assistant]") == shots + 1
    assert prompts(task, shots) == expected
    found = score(load_model(model), tokenizer, task, max_length=512, num_fewshot=shots)
    for metric, value in found.metrics.items():
        assert value == pytest.approx(theirs["results"][name][f"{metric},none"], rel=1e-5)


def test_what_is_trained_on_is_token_for_token_what_is_scored(
    real_data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    task = in_chat(real_task(real_data, "arc_easy"), tokenizer)
    for row, pair in zip(load_examples(task, "train", tokenizer, 512).rows, answers(task, "train"), strict=True):
        assert pair.prompt is not None
        assert pair.prompt.startswith("<s>[user] Question")
        assert pair.prompt.endswith("[assistant] ")
        assert (pair.prompt, pair.answer) in pair.requests
        together = tokenizer.encode(pair.prompt + pair.answer, add_special_tokens=False)
        # One begin token: that of the template.
        assert [*row.prompt_ids, *row.answer_ids] == together
        assert together.count(tokenizer.bos_token_id) == 1


def test_a_generated_answer_follows_the_turn_at_once(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    task = in_chat(own(tmp_path / "own", FIRST, WRITES), tokenizer)
    pair = next(answers(task, "train"))
    assert (pair.prompt, pair.answer) == ("<s>[user] Q: What comes after 0?\nA:\n[assistant] ", "two")


def test_instructions_are_turns_too(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": " 3 "}, {"instruction": "Sing.", "output": "La"}]
    write_rows(tmp_path / "train.jsonl", [{"instruction": f"Count to {number}.", "output": "1"} for number in range(9)])
    write_rows(tmp_path / "test.jsonl", rows)
    given = {"name": "mine", "kind": "instructions", "data": str(tmp_path), "template": "chat"}
    task = with_chat(resolve_task(given), lambda: tokenizer, "it")
    found = load_examples(task, "scored", tokenizer, 512).rows
    texts = ["<s>[user] Add.\n\n1 and 2\n[assistant] 3", "<s>[user] Sing.\n[assistant] La"]
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert [[*row.prompt_ids, *row.answer_ids] for row in found] == expected


def test_the_template_is_a_part_of_the_tasks_identity(real_data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    plain = real_task(real_data, "arc_easy")
    chat = in_chat(plain, tokenizer)
    other = chat.model_copy(update={"chat": Chat(template=TEMPLATE + " ", tokens={})})
    views = [json.dumps(task.cache_view(), sort_keys=True) for task in (plain, chat, other)]
    assert len(set(views)) == 3
    assert "chat" not in plain.cache_view()


def test_a_template_that_prints_the_date_words_rows_alike_on_every_day() -> None:
    chat = Chat(template="{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }} " + TEMPLATE, tokens={})
    assert render(chat, [{"role": "user", "content": "Hello"}]).startswith("26 Jul 2024 2024-07-26 [user] Hello")


def test_a_template_that_takes_no_system_turn_gets_none() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = Chat(template=NO_SYSTEM, tokens={"bos_token": "<s>"})
    assert render(chat, messages) == "<s>[user] Hello\n[assistant] "
    with pytest.raises(InputError, match="the tokenizer's chat template fails: no system"):
        render(Chat(template="{{ raise_exception('no system') }}", tokens={}), messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wikitext"}, "task 'wikitext' scores documents as a whole, which are no turns"),
        ({"name": "arc_easy"}, "the tokenizer of it has no chat template; take a model that was tuned for chats"),
    ],
)
def test_what_has_no_turns_is_refused(real_data: Path, options: dict[str, Any], message: str) -> None:
    task = real_task(real_data, options["name"], num_test=1)
    plain = load_tokenizer(resolve_model(str(real_data / "models" / "stories260K")))
    with pytest.raises(InputError, match=message):
        in_chat(task, plain)
    assert with_chat(task, lambda: plain, "it") is task
