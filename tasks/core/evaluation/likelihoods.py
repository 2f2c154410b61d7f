"""Scores of a model: log-probabilities of given tokens, and the standard errors of metrics computed from them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.length_limits import LengthLimits, length_limits
from tasks.core.blocks.soft_prompt import prompt_ids
from tasks.core.blocks.streaming import StoredTensors
from tasks.core.blocks.surgery import base_model_and_head
from tasks.core.errors import InputError
from tasks.core.evaluation.prompt_trees import longest_tree
from tasks.core.evaluation.scoring_pass import Ids, ScoringPass
from tasks.core.evaluation.scoring_states import Place, can_share_prompts, score_streamed, states_at
from tasks.core.evaluation.shared_prompts import scoring_passes

# Groups of rows in the jackknife of metrics that are not means over rows.
JACKKNIFE_GROUPS = 50
# exp(700) is about 1e304, close to the largest float64.
MAX_RATE = 700.0
# Rows that go through the head together: 128 rows x 256k vocabulary entries take 130 MB in float32. More are slower on
# a CPU, since the system clears such large blocks of memory anew for every use.
HEAD_ROWS = 128

Progress = Callable[..., Iterator[Any]]


def score_tokens(
    model: nn.Module,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_length: int,
    max_tokens: int,
    progress: Progress | None = None,
    share_prompts: bool = True,
    tensors: StoredTensors | None = None,
) -> list[tuple[float, bool]]:
    """Score each request (first ids, second ids): log-likelihood of the second, and whether greedy decoding gives them.

    When both together are longer than `max_length` + 1, the beginning of the first is cut off; the last token is not an
    input. Batches hold up to `max_tokens` padded tokens; requests that differ only in their last token share one
    forward pass. share_prompts: run what several requests begin with once, where the family's cache allows it; the
    results differ by rounding. tensors: the stored tensors of the blocks, where these are on disk
    (`run_streamed`); prompts are not shared then. A soft prompt of the model stands in front of every request.

    Raises:
        InputError: when the second ids do not fit, or are empty, as their likelihood of 1 would be the best.
    """
    if tensors is not None:
        return score_without_blocks(model, requests, max_length, max_tokens, tensors, (), progress)[0]
    by_inputs = _by_inputs(requests, max_length, prompt_ids(model))
    inputs, share = list(by_inputs), share_prompts and can_share_prompts(model)
    limits = length_limits(model.config)
    passes: Iterable[ScoringPass] = scoring_passes(inputs, max_tokens, limits, share, longest_tree(model))
    base, head = base_model_and_head(model)
    answers = _Answers(head, requests, by_inputs)
    for chosen in progress(passes, description="scoring") if progress else passes:
        answers.score(chosen, partial(states_at, model, base, inputs, chosen))
    return answers.in_order()


def score_without_blocks(
    model: nn.Module,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_length: int,
    max_tokens: int,
    tensors: StoredTensors,
    blocks: Sequence[int],
    progress: Progress | None = None,
) -> list[list[tuple[float, bool]]]:
    """Score each request with the model, and without each of these blocks; blocks are on disk and loaded once.

    Arguments, results and errors as those of `score_tokens`: the first list is the model's own.
    """
    by_inputs = _by_inputs(requests, max_length, prompt_ids(model))
    inputs, (_, head) = list(by_inputs), base_model_and_head(model)
    passes = scoring_passes(inputs, max_tokens, length_limits(model.config), share=False)
    answers = [_Answers(head, requests, by_inputs) for _ in range(1 + len(blocks))]
    score_streamed(model, tensors, inputs, passes, [each.score for each in answers], progress, blocks)
    return [each.in_order() for each in answers]


def request_batches(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int, max_tokens: int, limits: LengthLimits
) -> list[list[int]]:
    """Group the indices of requests as `score_tokens` does for a model with these limits, one list for each pass.

    Without shared prompts, scoring each list separately gives the same results as scoring all requests at once, bit for
    bit.
    """
    by_inputs = _by_inputs(requests, max_length)
    inputs = list(by_inputs)
    passes = scoring_passes(inputs, max_tokens, limits, share=False)
    return [[number for at in chosen.members for number in by_inputs[inputs[at]]] for chosen in passes]


def mean_with_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return (mean, standard error of the mean); the error of a single value is None."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def perplexity_with_error(losses: Sequence[float], weights: Sequence[float]) -> tuple[float, float | None]:
    """Perplexity exp(sum of losses / sum of weights), and its standard error over documents.

    losses: negative log-likelihood of each document; weights: its number of tokens (or words).
    The error is that of a ratio of two sums, propagated through the exponential (delta method).
    """
    rate, error = rate_with_error(losses, weights)
    # Clamped: an untrained emulator may be far worse than guessing, and JSON has no infinity.
    value = math.exp(min(rate, MAX_RATE))
    return value, None if error is None or rate >= MAX_RATE else value * error


def rate_with_error(losses: Sequence[float], weights: Sequence[float]) -> tuple[float, float | None]:
    """Sum of losses / sum of weights, and its standard error over documents (Cochran, Sampling Techniques, 6.4)."""
    total, n = sum(weights), len(losses)
    rate = sum(losses) / total
    if n < 2:
        return rate, None
    spread = sum((loss - rate * weight) ** 2 for loss, weight in zip(losses, weights, strict=True))
    return rate, math.sqrt(spread * n / (n - 1)) / total


def scaled_losses(losses: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Scale the losses so that their mean is sum(losses) / sum(weights), the logarithm of the perplexity."""
    scale = len(losses) / sum(weights)
    return [loss * scale for loss in losses]


def jackknife_error(items: Sequence[Any], statistic: Callable[[list[Any]], float]) -> float | None:
    """Jackknife standard error of any statistic, leaving out one of at most 50 groups at a time (Efron and Stein 1981).

    None for fewer than two items.
    """
    groups = min(JACKKNIFE_GROUPS, len(items))
    if groups < 2:
        return None
    left = [statistic([item for at, item in enumerate(items) if at % groups != group]) for group in range(groups)]
    mean = sum(left) / groups
    return math.sqrt((groups - 1) / groups * sum((value - mean) ** 2 for value in left))


def _require_scorable(requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> None:
    if empty := [number for number, (_, scored) in enumerate(requests, start=1) if not scored]:
        raise InputError(
            f"request {empty[0]} of {len(requests)} has no token to score; leave out rows with an answer or a choice"
            " without tokens"
        )
    longest = max((len(scored) for _, scored in requests), default=0)
    if longest > max_length:
        raise InputError(
            f"an answer of {longest} tokens does not fit into the {max_length} that the model takes; leave its row"
            " out, or take a model with a longer context"
        )


def _by_inputs(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int, prompt: Ids = ()
) -> dict[Ids, list[int]]:
    """Map each distinct model input to the indices of the requests that are scored with it.

    prompt: ids of a soft prompt, which is never cut off.
    """
    most = max_length - len(prompt)
    _require_scorable(requests, most)
    found: dict[Ids, list[int]] = {}
    for number, (before, scored) in enumerate(requests):
        found.setdefault((*prompt, *(*before, *scored)[-(most + 1) : -1]), []).append(number)
    return found


class _Answers:
    """The scores of requests, filled pass by pass. by_inputs: requests by distinct input."""

    def __init__(
        self,
        head: Callable[[Tensor], Tensor],
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        by_inputs: dict[Ids, list[int]],
    ) -> None:
        self._head, self._requests, self._by_inputs = head, requests, by_inputs
        self._inputs = list(by_inputs)
        self._found: dict[int, tuple[float, bool]] = {}

    def score(self, chosen: ScoringPass, states_of: Callable[[Sequence[Place]], Tensor]) -> None:
        """Score the requests of a pass. states_of: returns its last hidden states [number of places, d] at places."""
        inputs = self._inputs
        wanted = [
            (at, number, self._requests[number][1]) for at in chosen.members for number in self._by_inputs[inputs[at]]
        ]
        self._found.update(_score_pass(self._head, inputs, wanted, states_of))

    def in_order(self) -> list[tuple[float, bool]]:
        """Return the scores of all requests."""
        return [self._found[number] for number in range(len(self._requests))]


@torch.inference_mode()
def _score_pass(
    head: Callable[[Tensor], Tensor],
    inputs: Sequence[Ids],
    wanted: list[tuple[int, int, Sequence[int]]],
    states_of: Callable[[Sequence[Place]], Tensor],
) -> dict[int, tuple[float, bool]]:
    """Score the requests of one pass; wanted: (index of the input, request index, ids of its last tokens).

    states_of: returns the last hidden states [number of places, d] at places of the pass. The head runs once for each
    scored position, however many requests use it; log-probabilities are float32 whatever the model's data type.
    """
    tokens = [
        ((at, len(inputs[at]) - len(ids) + step), target) for at, _, ids in wanted for step, target in enumerate(ids)
    ]
    places = sorted({place for place, _ in tokens})
    index = {place: row for row, place in enumerate(places)}
    states = states_of(places)
    at_place, targets = torch.tensor([(index[place], target) for place, target in tokens]).T
    values, greedy = _at_targets(head, states, at_place, targets)
    result, start = {}, 0
    for _, number, ids in wanted:
        part = slice(start, start + len(ids))
        result[number] = (float(values[part].sum()), bool(greedy[part].all()))
        start += len(ids)
    return result


def _at_targets(head: Callable[[Tensor], Tensor], states: Tensor, at: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log-probability in float64, whether most likely) of token targets[i] after states[at[i]], on the CPU.

    states: [M, d]; at, targets: [K] on the CPU. The logits of only `HEAD_ROWS` rows are in memory at a time.
    """
    values = torch.empty(len(at), dtype=torch.float64)
    greedy = torch.empty(len(at), dtype=torch.bool)
    for start in range(0, len(states), HEAD_ROWS):
        log_probabilities = head(states[start : start + HEAD_ROWS]).float().log_softmax(-1)
        chosen = ((at >= start) & (at < start + HEAD_ROWS)).nonzero().squeeze(-1)
        rows, ids = (part.to(log_probabilities.device) for part in (at[chosen] - start, targets[chosen]))
        values[chosen] = log_probabilities[rows, ids].double().cpu()
        greedy[chosen] = (log_probabilities.argmax(-1)[rows] == ids).cpu()
    return values, greedy
