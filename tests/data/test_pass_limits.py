"""How long an example may be: windows of documents, prompts that lose their beginning, rows that no pass holds."""

from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM

from tasks.core.errors import InputError
from tasks.data.checks import check_inputs
from tasks.data.lengths import measure
from tasks.data.lm_eval.task import quiet
from tasks.data.lm_eval_rows import harness_task, without_bars
from tasks.data.pass_limits import PassLimit
from tasks.data.resolving import resolve_task
from tasks.data.scoring import score
from tasks.data.sources import DOCUMENT_WINDOW, TaskSource
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import question, write_rows
from tests.store.small_tokenizers import tokenizer, write_model

LONG_CONTEXT = 131_072
BOOK = "One line of a book. " * 500  # a token each letter


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A tiny model that takes as many tokens as Llama 3.1."""
    return write_model(tmp_path_factory.mktemp("model"), LONG_CONTEXT)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of plain text: a short document, and a long one."""
    folder = tmp_path_factory.mktemp("books")
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", [{"text": f"A short one to {split}."}, {"text": BOOK + split}])
    (folder / "whole.yaml").write_text(
        "task: whole\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: word_perplexity}]\n"
    )
    return {"name": "books", "kind": "text", "data": str(folder)}


def questions(folder: Path, **settings: Any) -> TaskSource:
    """Rows in the form of ARC, the second of each split with a long prompt and a long wrong choice."""
    choices = {"text": ["one", "two", "x" * 80], "label": ["A", "B", "C"]}
    for number, split in enumerate(("train", "validation", "test")):
        long = question(question="What? " * 50 + f"{number}?", choices=choices)
        write_rows(folder / f"{split}.jsonl", [question(10 + number), long, question(20 + number)])
    return resolve_task({"name": "arc_easy", "data": str(folder)} | settings)


def test_documents_are_cut_into_windows_whatever_the_model_takes(books: dict[str, Any]) -> None:
    made, text = tokenizer(), made_task(books)
    for context in (LONG_CONTEXT, DOCUMENT_WINDOW):
        rows = load_examples(text, "train", made, context).rows
        assert max(row.num_tokens for row in rows) == DOCUMENT_WINDOW
        assert [token for row in rows[1:] for token in row.answer_ids] == made.encode(
            f"{BOOK}train", add_special_tokens=False
        )
    assert max(row.num_tokens for row in load_examples(text, "train", made, 100).rows) == 100
    longer = made_task(books, max_length=5000)
    assert max(row.num_tokens for row in load_examples(longer, "train", made, LONG_CONTEXT).rows) == 5000
    assert text.cache_view() != longer.cache_view()


def made_task(settings: dict[str, Any], **changes: Any) -> TaskSource:
    return resolve_task(settings | changes)


def test_lm_evals_documents_are_scored_in_windows_of_that_length(source: ModelSource, books: dict[str, Any]) -> None:
    quiet()
    model, made = load_model(source), load_tokenizer(source)
    task = resolve_task({"name": "whole", "data": books["data"], "max_length": 300})
    with without_bars():
        stock = lm_eval.evaluate(
            HFLM(pretrained=model, tokenizer=made, max_length=300, batch_size=4),
            {"tasks": {"whole": harness_task(task, "scored")}, "groups": {}},
            bootstrap_iters=0,
        )
    scores = score(model, made, task, max_length=source.context, max_tokens=1200)
    assert scores.value == pytest.approx(stock["results"]["whole"]["word_perplexity,none"], rel=1e-5)
    assert check_inputs(source, task)["window"] == 300


def test_prompts_use_the_whole_context_unless_a_limit_is_set(source: ModelSource, tmp_path: Path) -> None:
    made, task = load_tokenizer(source), questions(tmp_path)
    whole = load_examples(task, "scored", made, source.context)
    long = whole.rows[1].num_tokens
    assert (whole.num_truncated, long > 300) == (0, True)
    assert whole.longest[1] == long + 80 - len("two"), "the longest choice, which is not the right one"
    cut = load_examples(questions(tmp_path, max_length=120), "scored", made, source.context)
    assert (cut.num_truncated, cut.rows[1].num_tokens, cut.longest) == (
        1,
        120,
        (whole.longest[0], 120, whole.longest[2]),
    )
    assert cut.rows[1].answer_ids == whole.rows[1].answer_ids
    assert "window" not in check_inputs(source, task)
    short = questions(tmp_path, max_length=60)
    with pytest.raises(InputError, match=r"validation row 2: choice 3 of 3 has 81 tokens, task.max_length is 60"):
        check_inputs(source, short)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            PassLimit("tune.max_tokens", 300, "train"),
            r"train row 2 takes 3\d\d tokens in one pass, but tune.max_tokens",
        ),
        (PassLimit("support.max_tokens", 300, "validation", 2), r"validation row 2 takes .* support.max_tokens = 300"),
        (PassLimit("evaluate.max_tokens", 390, "scored", choices=True), r"scored row 2 takes 402 .* = 390: raise it"),
        (PassLimit("evaluate.max_tokens", 100, "train", num_tokens=150), r"takes 3\d\d tokens .*task.max_length = 100"),
    ],
)
def test_a_row_that_no_pass_holds_is_refused(
    source: ModelSource, tmp_path: Path, limit: PassLimit, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_inputs(source, questions(tmp_path), [limit])
    assert "What?" not in str(caught.value)


def test_rows_that_fit_their_passes(source: ModelSource, books: dict[str, Any], tmp_path: Path) -> None:
    limits = [
        PassLimit("support.max_tokens", 300, "validation", 1),
        PassLimit("support.max_tokens", 10, "validation", part="answer"),
        PassLimit("evaluate.max_tokens", 390, "scored"),
        PassLimit("evaluate.max_tokens", 100, "validation", num_tokens=100),
    ]
    assert check_inputs(source, questions(tmp_path / "long"), limits)
    every = [PassLimit("tune.max_tokens", 120, split, choices=True) for split in ("train", "validation", "scored")]
    assert check_inputs(source, questions(tmp_path / "cut", max_length=120), every)["num_scored_truncated"] == 1
    assert check_inputs(source, made_task(books), [PassLimit("tune.max_tokens", DOCUMENT_WINDOW, "train")])
    with pytest.raises(InputError, match=r"train row 2 takes 2048 tokens .*longer document becomes several windows"):
        check_inputs(source, made_task(books), [PassLimit("tune.max_tokens", 1024, "train")])


def test_a_model_that_writes_needs_room_for_a_prompt(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "write.yaml").write_text(
        "task: write\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {max_gen_toks: 40}\nmetric_list: [{metric: exact_match}]\n"
    )
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.jsonl", [{"question": f"{split} {at}?", "answer": "I"} for at in range(4)])
    settings = {"name": "write", "data": str(tmp_path)}
    assert check_inputs(source, resolve_task(settings | {"max_length": 41}))
    assert measure(resolve_task(settings), None, LONG_CONTEXT).writes
    with pytest.raises(InputError, match=r"'write' lets the model write up to 40 tokens, but task.max_length = 40"):
        check_inputs(source, resolve_task(settings | {"max_length": 40}))


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_costs_are_those_of_the_same_windows(books: dict[str, Any], tmp_path: Path, with_tokenizer: bool) -> None:
    made = tokenizer() if with_tokenizer else None
    for settings in (books, {"name": "whole", "data": books["data"]}):
        found = measure(made_task(settings), made, LONG_CONTEXT)
        for lengths in (found.train, found.validation, found.scored):
            assert max(lengths.tokens) == DOCUMENT_WINDOW
            assert len(lengths.tokens) == (6 if with_tokenizer else 3)
    cut = measure(questions(tmp_path, max_length=120), made, LONG_CONTEXT)
    assert not cut.writes
    assert max(*cut.train.tokens, *cut.scored.tokens) <= 120
