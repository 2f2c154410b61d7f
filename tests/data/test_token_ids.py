"""Text as token ids: nothing behind a prompt, no choice without tokens, and what is trained is what is scored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tasks.core.errors import InputError
from tasks.data.checks import check_inputs
from tasks.data.lm_eval.model import language_model
from tasks.data.lm_eval_rows import harness_task, without_bars
from tasks.data.resolving import resolve_task
from tasks.data.scoring import score
from tasks.data.sources import TaskSource
from tasks.data.task_measure import TaskMeasure
from tasks.data.token_ids import encode, encode_apart, encode_choices, encode_pair, end_ids, end_tokens
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import write_rows
from tests.store.small_tokenizers import JOINING, tokenizer, write_model

LETTERS = ("A", "B", "C")
ZERO_WIDTH = "\u200b"


@pytest.fixture(scope="module")
def joining(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A model whose tokenizer joins the end of a prompt with one of the choices."""
    return write_model(tmp_path_factory.mktemp("joining"), merges=JOINING)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A model whose tokenizer ends every text."""
    return write_model(tmp_path_factory.mktemp("ending"), eos_at_end=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """The same model with a tokenizer that does not."""
    return write_model(tmp_path_factory.mktemp("plain"))


def silent(items: Any, **_: Any) -> Any:
    return iter(items)


def define(folder: Path, name: str, **definition: Any) -> None:
    lines = [f"{key}: {json.dumps(value)}" for key, value in {"task": name, **definition}.items()]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def letters(folder: Path, choices: tuple[str, ...] = LETTERS, counts: tuple[int, int] = (8, 12)) -> TaskSource:
    """A task that asks for a letter; the last choice is never right."""
    folder.mkdir(exist_ok=True)
    for split, count in zip(("train", "test"), counts, strict=True):
        rows = [{"question": f"What is {split} {at}?", "right": at % 2} for at in range(count)]
        write_rows(folder / f"{split}.jsonl", rows)
    metrics = [{"metric": "acc"}]
    wording = {"doc_to_text": "{{question}} Answer:", "doc_to_choice": list(choices), "doc_to_target": "right"}
    define(folder, "letters", output_type="multiple_choice", metric_list=metrics, **wording)
    return resolve_task({"name": "letters", "data": str(folder)})


@torch.no_grad()
def by_hand(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> float:
    """Log-likelihood of one continuation, from whole logits."""
    logits = model(torch.tensor([prompt_ids + answer_ids])).logits[0].double().log_softmax(-1)
    places = torch.arange(len(prompt_ids) - 1, len(prompt_ids) + len(answer_ids) - 1)
    return float(logits[places, torch.tensor(answer_ids)].sum())


# Choices that join with their prompt


def test_a_row_of_which_one_choice_joins_is_encoded_apart() -> None:
    made = tokenizer(merges=JOINING)
    prompt = made.encode("Answer:")
    pairs, is_apart = encode_choices(made, [("Answer:", " A"), ("Answer: ", "C"), ("", "C")])
    assert is_apart
    alone = [made.encode(text, add_special_tokens=False) for text in (" A", " C", "C")]
    assert pairs == [(prompt, alone[0]), (prompt, alone[1]), ([made.bos_token_id], alone[2])]
    assert len(alone[1]) == 1, "a token of its own, which the joined text does not have"
    assert made.encode("Answer: C") == [*prompt[:-1], made.convert_tokens_to_ids(":ĠC")]


def test_a_row_in_which_nothing_joins_is_encoded_as_lm_eval_does(joining: ModelSource) -> None:
    made = load_tokenizer(joining)
    reference = HFLM(pretrained=load_model(joining), tokenizer=made)
    requests = [("Answer:", " A"), ("Answer: ", "B b"), ("Answer?", " C")]
    pairs, is_apart = encode_choices(made, requests)
    assert not is_apart
    assert pairs == [reference._encode_pair(*request) for request in requests]
    assert reference._encode_pair("Answer:", " C")[1] == [], "what is scored then is nothing"


def test_choices_that_join_are_scored_by_tokens_of_their_own(joining: ModelSource, tmp_path: Path) -> None:
    task, model, made = letters(tmp_path / "task"), load_model(joining), load_tokenizer(joining)
    docs = harness_task(task, "scored").eval_docs
    right = 0
    for doc in docs:
        prompt = made.encode(f"{doc['question']} Answer:")
        found = [by_hand(model, prompt, made.encode(f" {letter}", add_special_tokens=False)) for letter in LETTERS]
        right += found.index(max(found)) == doc["right"]
    scores = score(model, made, task, max_length=joining.context)
    assert 0 < scores.value == pytest.approx(right / len(docs))
    facts = check_inputs(joining, task)
    assert facts["num_train_apart"] + facts["num_validation_apart"] == 8, "of the rows of train some validate"
    assert (facts["num_scored_apart"], facts["end_tokens"]) == (12, "")


def test_what_is_trained_is_what_is_scored_where_choices_join(joining: ModelSource, tmp_path: Path) -> None:
    """The right answers, none of which joins, follow the rule of their rows."""
    task, made = letters(tmp_path / "task"), load_tokenizer(joining)
    definition = harness_task(task, "scored")
    with without_bars():
        definition.build_all_requests(rank=0, world_size=1)
    scorer: Any = language_model(load_model(joining), made, joining.context, 4096, silent)
    scored: list[tuple[Any, Any]] = []
    scorer.score_tokens = lambda requests: scored.extend(ids for _, *ids in requests) or [(0.0, False)] * len(requests)
    scorer.loglikelihood(definition.instances)
    rows = load_examples(task, "scored", made, joining.context).rows
    expected = [scored[len(LETTERS) * at + doc["right"]] for at, doc in enumerate(definition.eval_docs)]
    assert [[list(row.prompt_ids), list(row.answer_ids)] for row in rows] == expected
    measure = TaskMeasure(
        scorer.model, made, task, "scored", num_rows=None, max_length=joining.context, max_tokens=4096
    )
    assert measure._choices is not None
    assert measure._choices.requests == [tuple(ids) for ids in scored], "and what a landscape measures"


def test_a_choice_that_the_tokenizer_drops_is_refused_by_row(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", dropped=ZERO_WIDTH)
    task = letters(tmp_path / "task", ("A", "B", ZERO_WIDTH))
    define(tmp_path / "task", "close", include="letters.yaml", target_delimiter="")
    task = resolve_task({"name": "close", "data": str(tmp_path / "task")})
    with pytest.raises(InputError, match=r"'close', validation row 1: choice 3 of 3 has no token.*leave this row out"):
        check_inputs(source, task)
    with pytest.raises(InputError, match=r"'close', row 1 of those that are scored: choice 3 of 3 has no token"):
        score(load_model(source), load_tokenizer(source), task, max_length=source.context)


def test_an_answer_that_the_tokenizer_drops_is_refused_by_row(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", dropped=ZERO_WIDTH)
    write_rows(tmp_path / "train.jsonl", [{"instruction": f"a {at}", "output": "b"} for at in range(8)])
    write_rows(tmp_path / "test.jsonl", [{"instruction": "c", "output": text} for text in ("b", ZERO_WIDTH)])
    settings = {"name": "mine", "kind": "instructions", "data": str(tmp_path)}
    # In the default wording a space stands before the answer, which is a token of its own.
    assert check_inputs(source, resolve_task(settings))["num_scored_rows"] == 2
    with pytest.raises(InputError, match=r"'mine', scored row 2: the answer has no token: it is empty, or the"):
        check_inputs(source, resolve_task(settings | {"template": "reference"}))


def test_documents_without_a_token(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", dropped=ZERO_WIDTH, bos=False)
    made = load_tokenizer(source)
    for split in ("train", "validation", "test"):
        texts = (f"one to {split}", ZERO_WIDTH * len(split), f"three to {split}")
        write_rows(tmp_path / f"{split}.jsonl", [{"text": text} for text in texts])
    text = resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path)})
    found = load_examples(text, "scored", made, source.context)
    assert ([row.row for row in found.rows], found.num_rows) == ([1, 3], 2), "left out, as blank ones are"
    define(tmp_path, "whole", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}")
    whole = resolve_task({"name": "whole", "data": str(tmp_path), "num_validation": 1})
    with pytest.raises(InputError, match=r"'whole', train row 2: the document has no token"):
        check_inputs(source, whole)
    with pytest.raises(InputError, match=r"'whole', row 2 of those that are scored: the document has no token"):
        score(load_model(source), made, whole, max_length=source.context)


def test_a_tokenizer_that_cannot_encode_a_text_is_refused(tmp_path: Path) -> None:
    """Words as tokens, and none for unknown ones: the tokenizers package raises a bare Exception."""
    source = write_model(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    words = {"type": "WordLevel", "vocab": {"a": 0, "<s>": 1}, "unk_token": "<unk>"}
    made = {"model": words, "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": []}
    path.write_text(json.dumps(json.loads(path.read_text()) | made | {"post_processor": None, "decoder": None}))
    for split in ("train", "test"):
        rows = [{"instruction": f"a secret {split} {at}", "output": "a"} for at in range(8)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    task = resolve_task({"name": "mine", "kind": "instructions", "data": str(tmp_path)})
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match=r"model: the tokenizer cannot encode a text .*unk_token") as caught:
        check_inputs(source, task)
    assert "secret" not in str(caught.value)


# Tokenizers that end every text


def test_tokens_behind_every_text_are_found_by_what_is_encoded() -> None:
    assert end_ids(tokenizer()) == end_ids(tokenizer(bos=False)) == ()
    for bos in (True, False):
        made = tokenizer(bos=bos, eos_at_end=True)
        assert (end_ids(made), end_tokens(made)) == ((2,), "</s>")
        same = tokenizer(bos=bos)
        for text in ("a prompt:", "", "one that ends itself</s>", "<s>one that begins itself"):
            assert encode(made, text) == encode(same, text)


@pytest.mark.parametrize("pair", [("Q:", " a"), ("Q: ", "a"), ("", " a"), ("Q:", " a</s>")])
def test_neither_prompt_nor_answer_is_ended(pair: tuple[str, str]) -> None:
    made, same = tokenizer(eos_at_end=True), tokenizer()
    assert encode_pair(made, *pair) == encode_pair(same, *pair)
    assert encode_apart(made, *pair) == encode_apart(same, *pair)


def test_every_kind_of_task_is_scored_as_with_a_tokenizer_that_ends_nothing(
    ending: ModelSource, plain: ModelSource, tmp_path: Path
) -> None:
    choices = letters(tmp_path, counts=(20, 6))
    define(tmp_path, "whole", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{question}}")
    writing = {"generation_kwargs": {"max_gen_toks": 5, "until": ["."]}, "metric_list": [{"metric": "exact_match"}]}
    wording = {"doc_to_text": "{{question}} Answer:", "doc_to_target": "{{right}}"}
    define(tmp_path, "writes", output_type="generate_until", **wording, **writing)
    whole, writes = (resolve_task({"name": name, "data": str(tmp_path)}) for name in ("whole", "writes"))
    model, tokenizers = load_model(plain), [load_tokenizer(source) for source in (ending, plain)]
    for task in (choices, whole, writes):
        first, second = (score(model, each, task, max_length=plain.context) for each in tokenizers)
        assert first == second
        one, two = (load_examples(task, "train", each, plain.context) for each in tokenizers)
        assert one == two
    assert check_inputs(ending, choices) == check_inputs(plain, choices) | {"end_tokens": "</s>"}


def test_prompts_of_written_answers_are_not_ended(ending: ModelSource, plain: ModelSource) -> None:
    model = load_model(plain)
    first, second = (
        language_model(model, load_tokenizer(source), plain.context, 4096, silent) for source in (ending, plain)
    )
    for limit in (None, 3):
        found, expected = (each.tok_batch_encode(["a", "bcd ef"], left_truncate_len=limit) for each in (first, second))
        width = min(expected[0].shape[1], limit or expected[0].shape[1])
        assert all(torch.equal(ours[:, -width:], theirs) for ours, theirs in zip(found, expected, strict=True))
    assert first.tok_encode("bcd", left_truncate_len=2) == second.tok_encode("bcd", left_truncate_len=2)
