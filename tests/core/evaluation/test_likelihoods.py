"""Scores of tokens against plain logits on every family, and standard errors against independent formulas."""

import math
import random

import numpy as np
import pytest
import torch

from tasks.core.blocks.surgery import with_layout
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import (
    jackknife_error,
    mean_with_error,
    perplexity_with_error,
    rate_with_error,
    score_tokens,
)
from tasks.core.plan.layout import fixed_plan
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, tiny_model

Request = tuple[list[int], list[int]]


def some_requests(longest: int = 20) -> list[Request]:
    """Prompts of several lengths, each with answers of one and of several tokens."""
    generator = random.Random(0)
    ids = lambda count: [generator.randrange(4, VOCABULARY) for _ in range(count)]  # noqa: E731
    return [(prompt, ids(count)) for prompt in map(ids, (1, 3, 8, longest)) for count in (1, 1, 2, 5)]


@torch.no_grad()
def plain(model: torch.nn.Module, requests: list[Request]) -> list[float]:
    """Log-likelihoods from whole logits, one request at a time, with the model's cache on."""
    values = []
    for before, scored in requests:
        logits = model(torch.tensor([before + scored])).logits[0].double().log_softmax(-1)
        places = torch.arange(len(before) - 1, len(before) + len(scored) - 1)
        values.append(float(logits[places, torch.tensor(scored)].sum()))
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_whole_logits(family: str) -> None:
    model, requests = tiny_model(family), some_requests()
    expected = plain(model, requests)
    for max_tokens in (1, 60, 10_000):
        found = score_tokens(model, requests, max_length=64, max_tokens=max_tokens)
        assert [value for value, _ in found] == pytest.approx(expected, abs=1e-4)


def test_an_emulator_with_repeated_blocks_is_scored_as_it_computes() -> None:
    emulator = with_layout(tiny_model("opt"), fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5), share="all"))
    found = score_tokens(emulator, some_requests(), max_length=64, max_tokens=100)
    assert [value for value, _ in found] == pytest.approx(plain(emulator, some_requests()), abs=1e-4)


def test_a_long_prompt_loses_its_beginning() -> None:
    model, (before, scored) = tiny_model("llama"), some_requests()[-1]
    assert len(before) + len(scored) == 25
    [(value, _)] = score_tokens(model, [(before, scored)], max_length=10, max_tokens=100)
    assert value == pytest.approx(plain(model, [((before + scored)[-11:-5], scored)])[0], abs=1e-4)


def test_greedy_continuations_are_recognised() -> None:
    model, before = tiny_model("llama"), [5, 6, 7]
    scored = model.generate(torch.tensor([before]), max_new_tokens=4, min_new_tokens=4, do_sample=False)[0].tolist()[3:]
    other = [*scored[:-1], (scored[-1] + 1) % VOCABULARY]
    found = score_tokens(model, [(before, scored), (before, other)], max_length=64, max_tokens=100)
    assert [greedy for _, greedy in found] == [True, False]


def test_an_answer_that_cannot_fit_is_refused() -> None:
    model = tiny_model("llama")
    assert len(score_tokens(model, [([1, 2, 3], list(range(8)))], max_length=8, max_tokens=100)) == 1
    with pytest.raises(InputError, match="an answer of 9 tokens does not fit into the 8 that the model takes"):
        score_tokens(model, [([1, 2, 3], list(range(9)))], max_length=8, max_tokens=100)


def test_the_head_runs_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model("opt"), some_requests()
    whole = score_tokens(model, requests, max_length=64, max_tokens=1000)
    monkeypatch.setattr("tasks.core.evaluation.likelihoods.HEAD_ROWS", 3)
    parts = score_tokens(model, requests, max_length=64, max_tokens=1000)
    assert [value for value, _ in parts] == pytest.approx([value for value, _ in whole])


def test_the_error_of_a_mean_is_that_of_numpy() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    mean, error = mean_with_error(values)
    assert mean == pytest.approx(0.6)
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))


def test_the_error_of_a_perplexity_is_that_of_a_bootstrap() -> None:
    generator = np.random.default_rng(0)
    weights = generator.integers(20, 60, 400).astype(float)
    losses = weights * generator.normal(3, 0.4, 400)
    value, error = perplexity_with_error(losses.tolist(), weights.tolist())
    picks = generator.integers(0, 400, (2000, 400))
    again = np.exp(losses[picks].sum(1) / weights[picks].sum(1))
    assert value == pytest.approx(math.exp(losses.sum() / weights.sum()))
    assert error == pytest.approx(again.std(), rel=0.1)


def test_a_rate_over_equal_weights_is_a_mean() -> None:
    values = [2.0, 1.0, 4.0, 3.0]
    mean, error = mean_with_error(values)
    assert rate_with_error([3 * value for value in values], [3.0] * 4) == (pytest.approx(mean), pytest.approx(error))
    assert rate_with_error([6.0], [2.0]) == (3.0, None)


def test_the_jackknife_of_a_mean_is_the_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=40).tolist()
    assert jackknife_error(values, lambda items: sum(items) / len(items)) == pytest.approx(mean_with_error(values)[1])
    many = np.random.default_rng(1).normal(size=2000).tolist()
    estimate = jackknife_error(many, lambda items: sum(items) / len(items))
    assert estimate == pytest.approx(mean_with_error(many)[1], rel=0.25)


def test_a_hopeless_model_still_has_a_score() -> None:
    assert perplexity_with_error([5000.0, 5000.0], [1, 1]) == (math.exp(700), None)


def test_nothing_to_score_has_no_likelihood() -> None:
    """Of no tokens it would be 1, the best score that there is."""
    model = tiny_model("llama")
    with pytest.raises(InputError, match="request 2 of 3 has no token to score"):
        score_tokens(model, [([1, 2], [3]), ([1, 2], []), ([1], [2])], max_length=8, max_tokens=100)
    with pytest.raises(InputError, match="request 1 of 2 has no token to score"):
        score_tokens(model, [([1, 2], []), ([1], [])], max_length=8, max_tokens=100)
