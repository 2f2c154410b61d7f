"""A model as lm-eval sees it: quiet, and computing only what is scored.

lm-eval's own class runs the head over every position and keeps a cache of keys and values that nothing reads. The
numbers here are the same: log-probabilities of the same tokens behind the same tokens.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rows that go through the head together: 512 x 256k tokens of vocabulary are half a gigabyte in float32.
HEAD_ROWS = 512

# (text or None, ids before, ids to score)
Request = tuple[Any, list[int], list[int]]


def language_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    max_tokens: int,
    progress: Callable[..., Iterator[Any]],
) -> "HFLM":
    """The model for `lm_eval.evaluate`, and with `score_tokens` for token ids."""
    from tasks.store.harness import quiet

    quiet()
    made = _quiet_class()(
        pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=max(1, max_tokens // max_length)
    )
    made.max_tokens = max_tokens
    made.progress = progress
    return made


@cache
def _quiet_class() -> type:
    """The subclass, made on first use because importing lm-eval's model class takes seconds."""
    from lm_eval.models.huggingface import HFLM

    from tasks.core.batching import Example, token_batches

    class QuietModel(HFLM):
        """lm-eval's Hugging Face model without bars and without work whose result is thrown away."""

        max_tokens: int
        progress: Callable[..., Iterator[Any]]

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(
            self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            return self.score_tokens(requests)

        def score_tokens(self, requests: list[Request]) -> list[tuple[float, bool]]:
            """(log-likelihood, whether greedy decoding gives it) of each request's last ids, in order."""
            longest = max((len(scored) for _, _, scored in requests), default=0)
            if longest > self.max_length:
                raise InputError(
                    f"an answer of {longest} tokens does not fit into the {self.max_length} that the model takes;"
                    " leave its row out, or take a model with a longer context"
                )
            # Requests that differ in their last token only share one forward pass.
            shared: dict[tuple[int, ...], list[int]] = {}
            for at, (_, before, scored) in enumerate(requests):
                shared.setdefault(tuple((before + scored)[-(self.max_length + 1) : -1]), []).append(at)
            inputs = list(shared)
            answers: dict[int, tuple[float, bool]] = {}
            batches = list(token_batches([Example(ids, ()) for ids in inputs], self.max_tokens))
            for batch in self.progress(batches, description="scoring"):
                rows = [inputs[at] for at in batch]
                wanted = [(row, at, requests[at][2]) for row, ids in enumerate(rows) for at in shared[ids]]
                answers |= _score_batch(self.model, rows, wanted)
            return [answers[at] for at in range(len(requests))]

    return QuietModel


def _score_batch(
    model: "PreTrainedModel", rows: list[tuple[int, ...]], wanted: list[tuple[int, int, list[int]]]
) -> dict[int, tuple[float, bool]]:
    """Score requests whose inputs are `rows`; wanted: (row, request number, ids of its last tokens).

    The head runs at scored positions only; log-probabilities in float32 whatever the model's number format.
    """
    import torch

    from tasks.core.blocks import base_model_and_head

    base, head = base_model_and_head(model)
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for at, row_ids in enumerate(rows):
        padded[at, : len(row_ids)] = torch.tensor(row_ids)
    # One (place, target) for each scored token; each place (row, position) goes through the head once.
    tokens = [
        ((row, len(rows[row]) - len(ids) + at), target) for row, _, ids in wanted for at, target in enumerate(ids)
    ]
    places = sorted({place for place, _ in tokens})
    index = {place: at for at, place in enumerate(places)}
    with torch.inference_mode():
        # No mask: padding is to the right, where no scored position looks.
        states = base(input_ids=padded.to(model.device), use_cache=False).last_hidden_state
        where = torch.tensor(places, device=states.device).T
        at, targets = torch.tensor([(index[place], target) for place, target in tokens]).T
        values, greedy = _at_targets(head, states[where[0], where[1]], at, targets)
    result, start = {}, 0
    for _, request, ids in wanted:
        part = slice(start, start + len(ids))
        result[request] = (float(values[part].sum()), bool(greedy[part].all()))
        start += len(ids)
    return result


def _at_targets(
    head: "Callable[[Tensor], Tensor]", states: "Tensor", at: "Tensor", targets: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """(log-probability in float64, whether most likely) of token targets[i] after states[at[i]]; on the CPU.

    states: [M, d]; at, targets: [K] on the CPU. The vocabulary-wide numbers of a few rows exist at a time.
    """
    import torch

    values = torch.empty(len(at), dtype=torch.float64)
    greedy = torch.empty(len(at), dtype=torch.bool)
    for start in range(0, len(states), HEAD_ROWS):
        log_probabilities = head(states[start : start + HEAD_ROWS]).float().log_softmax(-1)
        chosen = ((at >= start) & (at < start + HEAD_ROWS)).nonzero().squeeze(-1)
        rows, ids = (part.to(log_probabilities.device) for part in (at[chosen] - start, targets[chosen]))
        values[chosen] = log_probabilities[rows, ids].double().cpu()
        greedy[chosen] = (log_probabilities.argmax(-1)[rows] == ids).cpu()
    return values, greedy
