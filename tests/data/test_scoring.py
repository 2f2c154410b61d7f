"""Scores: lm-eval's own numbers on a saved model, perplexity from plain arithmetic, errors from other formulas."""

import logging
import math
import random
import statistics
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tasks.core.blocks.soft_prompt import insert_prompt
from tasks.core.evaluation.likelihoods import perplexity_with_error, score_tokens
from tasks.core.evaluation.scores import Scores
from tasks.data.lm_eval.model import language_model
from tasks.data.lm_eval.task import quiet
from tasks.data.resolving import resolve_task
from tasks.data.scoring import score
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tests.places import DEMO, ROOT
from tests.store.inputs import (
    LIMIT,
    QA_TASKS,
    own_task,
    question,
    real_task,
    stock_tasks,
    stories,
    write_rows,
)

ALL_TASKS = (*QA_TASKS, "wikitext")
NUM_ROWS = {"wikitext": 1, "race": 4}  # rows of thousands of tokens


@pytest.fixture(scope="module")
def stock(
    models: dict[str, ModelSource], real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What lm-eval reports by itself for each model folder: its loader, its model class, its errors."""
    quiet()
    tasks = stock_tasks(real_data, tmp_path_factory.mktemp("stock") / "yaml", ALL_TASKS)
    return {
        family: {
            name: lm_eval.evaluate(
                HFLM(pretrained=source.path, device="cpu", dtype="float32", batch_size=4, max_length=512),
                {"tasks": {name: task}, "groups": {}},
                limit=NUM_ROWS.get(name, LIMIT),
                log_samples=False,
            )["results"][name]
            for name, task in tasks.items()
        }
        for family, source in models.items()
    }


def ours(source: ModelSource, task: Any, **options: Any) -> Scores:
    """Our scores of a model folder."""
    options = {"max_length": source.context, **options}
    return score(load_model(source), load_tokenizer(source), task, **options)


@pytest.mark.parametrize("name", ALL_TASKS)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_scores_are_those_of_stock_lm_eval(
    models: dict[str, ModelSource], stock: dict[str, Any], real_data: Path, name: str, family: str
) -> None:
    limit = NUM_ROWS.get(name, LIMIT)
    task = real_task(real_data, name, num_test=limit)
    scores = ours(models[family], task, max_length=512, max_tokens=1500)
    theirs = stock[family][name]
    for metric, value in scores.metrics.items():
        assert value == pytest.approx(theirs[f"{metric},none"], rel=1e-5)
    assert scores.value == scores.metrics[scores.metric]
    assert scores.num_rows == limit
    expected = "exact_match" if name == "webqs" else "word_perplexity" if name == "wikitext" else "acc"
    assert scores.metric == expected
    assert scores.higher_is_better == (name != "wikitext")
    # RACE and OpenBookQA have four choices, PIQA two; of ARC a few rows have three or five.
    guessed = {"piqa": 0.5, "webqs": None, "wikitext": None}.get(name, 0.25)
    assert scores.chance == (guessed and pytest.approx(guessed, abs=0.02))
    if name != "wikitext":
        assert scores.stderr == pytest.approx(theirs[f"{expected}_stderr,none"])
        assert sum(scores.per_row) / limit == pytest.approx(scores.value)


def test_log_likelihoods_are_those_of_stock_lm_eval_in_any_batch(models: dict[str, ModelSource]) -> None:
    """Choices of one and of several tokens, shared prompts, prompts that are too long, a prompt that is one token."""
    generator = random.Random(0)
    for source in models.values():
        vocabulary = load_model(source).config.vocab_size
        ids = lambda count: [generator.randrange(4, vocabulary) for _ in range(count)]  # noqa: B023, E731
        prompts = [ids(length) for length in (1, 3, 9, 30, 70)]
        requests = [(("", ""), prompt, ids(length)) for prompt in prompts for length in (1, 1, 2, 5)]
        reference = HFLM(pretrained=load_model(source), tokenizer=load_tokenizer(source), batch_size=3, max_length=40)
        expected = reference._loglikelihood_tokens(requests, disable_tqdm=True)
        for max_tokens in (1, 100, 10_000):
            scorer = language_model(load_model(source), load_tokenizer(source), 40, max_tokens, silent)
            found = scorer.score_tokens(requests)
            assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-4, abs=1e-4)
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def silent(items: Any, **_: Any) -> Any:
    """No progress bar."""
    return iter(items)


def test_perplexity_of_text_is_that_of_the_models_own_loss(real_data: Path, tmp_path: Path) -> None:
    source = stories(real_data)
    texts = ["Once upon a time there was a girl.", "The sun is up in the sky and", "Lily said hello to the cat."]
    write_rows(tmp_path / "train.jsonl", [{"text": "a"}])
    write_rows(tmp_path / "test.jsonl", [{"text": text} for text in texts])
    scores = ours(source, resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path)}))
    model, tokenizer = load_model(source), load_tokenizer(source)
    losses, counts = [], []
    for text in texts:
        # The begin token, then the text: Hugging Face's own loss is the mean over what follows the first token.
        ids = torch.tensor([tokenizer.encode(text)])
        assert ids[0, 0] == tokenizer.bos_token_id
        counts.append(ids.shape[1] - 1)
        losses.append(model(ids, labels=ids).loss.item() * counts[-1])
    assert scores.value == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-5)
    assert scores.stderr == pytest.approx(perplexity_with_error(losses, counts)[1], rel=1e-4)
    assert (scores.num_rows, scores.higher_is_better, scores.metric) == (3, False, "perplexity")
    assert len(scores.per_row_losses) == 3
    assert scores.chance == model.config.vocab_size
    assert math.exp(statistics.mean(scores.per_row_losses)) == pytest.approx(scores.value)


def test_perplexity_of_instructions_counts_answers_only(real_data: Path, tmp_path: Path) -> None:
    source = stories(real_data)
    rows = [{"instruction": "Say hello", "output": "hello"}, {"instruction": "Say it", "input": "x", "output": "x y z"}]
    write_rows(tmp_path / "train.jsonl", [{"instruction": "Say nothing", "output": "nothing"}])
    write_rows(tmp_path / "test.jsonl", rows)
    scores = ours(source, resolve_task({"name": "mine", "kind": "instructions", "data": str(tmp_path)}))
    model, tokenizer = load_model(source), load_tokenizer(source)
    total, count = 0.0, 0
    for prompt, answer in [
        ("Instruction: Say hello\nAnswer:", " hello"),
        ("Instruction: Say it\nInput: x\nAnswer:", " x y z"),
    ]:
        ids = tokenizer.encode(prompt + answer)
        labels = torch.tensor([ids])
        labels[:, : len(tokenizer.encode(prompt))] = -100
        num_scored = int((labels != -100).sum())
        total += model(torch.tensor([ids]), labels=labels).loss.item() * num_scored
        count += num_scored
    assert scores.value == pytest.approx(math.exp(total / count), rel=1e-5)


def test_one_row_has_no_error(real_data: Path, tmp_path: Path) -> None:
    assert ours(stories(real_data), own_task(tmp_path, [question()])).stderr is None


def test_other_metrics_and_generated_answers(real_data: Path, tmp_path: Path) -> None:
    """A task that lets the model write, scored by exact match, in lm-eval's own words."""
    source = stories(real_data)
    (tmp_path / "write.yaml").write_text(
        "task: write\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {max_gen_toks: 4, until: ['.']}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    model, tokenizer = load_model(source), load_tokenizer(source)
    prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
    written = tokenizer.decode(model.generate(prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :])
    rows = [{"question": "Once upon a time", "answer": answer} for answer in (written.strip(), "never")]
    write_rows(tmp_path / "train.jsonl", [{"question": "Once", "answer": "never"}])
    write_rows(tmp_path / "test.jsonl", rows)
    scores = ours(source, resolve_task({"name": "write", "data": str(tmp_path)}))
    assert (scores.metric, scores.value, scores.per_row) == ("exact_match", 0.5, [1.0, 0.0])


def test_nothing_is_written_to_the_terminal_or_the_log(
    real_data: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        ours(stories(real_data), real_task(real_data, "arc_easy"))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))]


def test_the_embedded_model_knows_its_world() -> None:
    demo = ROOT / "flows" / "demo"
    source = resolve_model(str(demo / "model"))
    task = resolve_task({"name": "people", "data": str(demo / "task"), "num_test": 48})
    scores = ours(source, task)
    assert scores.metric == "acc"
    assert scores.num_rows == 48


@pytest.mark.parametrize("limit", [None, 20])
def test_a_soft_prompt_takes_none_of_the_tasks_own_limit(tmp_path: Path, limit: int | None) -> None:
    """Documents and rows behind a prompt are cut as for its tuning: to the model's context without it."""
    text = " ".join(["Anna lives in Rome."] * 40)
    for split in ("train", "test"):
        write_rows(tmp_path / f"{split}.jsonl", [{"text": f"{text} {split}"}])
    task = resolve_task({"name": "mine", "kind": "text", "data": str(tmp_path), "max_length": limit})
    source = resolve_model(str(DEMO / "model"))
    model, tokenizer = load_model(source, "float32"), load_tokenizer(source)
    torch.manual_seed(0)
    insert_prompt(model, 5)
    found = score(model, tokenizer, task, max_length=source.context)
    rows = load_examples(task, "scored", tokenizer, source.context - 5).rows
    assert max(row.num_tokens for row in rows) == (limit or source.context - 5)
    losses = [
        -value
        for value, _ in score_tokens(model, [(row.prompt_ids, row.answer_ids) for row in rows], source.context, 512)
    ]
    assert found.metrics["loss"] == pytest.approx(sum(losses) / sum(len(row.answer_ids) for row in rows), rel=1e-5)
