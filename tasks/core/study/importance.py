"""Importance of each block: the loss without it, with another block at its position, and with its tuning undone.

CRaSh (arXiv 2310.15477, section 2 and figure 4): blocks are deleted, replaced and rewound one at a time. The blocks
below the changed one run only once, so that N deletions cost half of N passes.
Shapes: N blocks, R rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.batching import Example
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.prefix import MAX_BYTES, PrefixStates, reusing
from tasks.core.blocks.streaming import StoredTensors
from tasks.core.blocks.surgery import aliased, rearranged
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import request_batches, score_tokens, score_without_blocks

Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Variation:
    """A changed model whose blocks below `position` are those of the original. make: builds it; name: for messages."""

    name: str
    position: int
    make: Callable[[], nn.Module]


@dataclass(frozen=True)
class RowLosses:
    """Sums of negative log-likelihoods over each row's answer tokens, in nats, in float64.

    whole: [R], losses of the model itself; varied: [number of variations, R]; num_tokens: [R], answer tokens per row.
    """

    whole: Tensor
    varied: Tensor
    num_tokens: Tensor


def deletions(model: nn.Module) -> list[Variation]:
    """Make the variations without block i, for every i.

    Raises:
        InputError: when the model has a single block.
    """
    every = range(_several_blocks(model))
    return [
        _rearrangement(model, f"without block {index}", index, [other for other in every if other != index])
        for index in every
    ]


def replacements(model: nn.Module) -> list[Variation]:
    """Make the N x N variations that run block j at position i, for i = 0 with every j, then i = 1, and so on."""
    every = list(range(len(get_blocks(model))))
    return [
        _rearrangement(model, f"with block {other} at position {index}", index, _with(every, index, other))
        for index in every
        for other in every
    ]


def rewindings(tuned: nn.Module, initial: nn.Module, blocks: Sequence[int]) -> list[Variation]:
    """Make the variations of the tuned model with one block reset to its initial weights, for each of `blocks`."""

    def make(index: int) -> Callable[[], nn.Module]:
        def rewound() -> nn.Module:
            model = aliased(tuned)
            get_blocks(model)[index] = get_blocks(initial)[index]
            return model

        return rewound

    return [Variation(f"with block {index} rewound", index, make(index)) for index in blocks]


def row_losses(
    model: nn.Module,
    variations: Sequence[Variation],
    rows: Sequence[Example],
    *,
    max_length: int,
    max_tokens: int,
    max_bytes: int = MAX_BYTES,
    progress: Progress = iter,
) -> RowLosses:
    """Compute the losses of the model and of its variations, which run only from the changed block on.

    The results are those of scoring each variation separately, bit for bit. Passes hold up to `max_tokens` padded
    tokens of at most `max_length` in a row; states take up to `max_bytes`.

    Raises:
        InputError: when the loss of the unchanged model is not finite.
    """
    requests = [(row.prompt_ids, row.answer_ids) for row in rows]
    whole = torch.zeros(len(rows), dtype=torch.float64)
    varied = torch.zeros(len(variations), len(rows), dtype=torch.float64)
    states = PrefixStates(max_bytes)
    positions = {variation.position for variation in variations}

    def score(scored: nn.Module, numbers: Sequence[int]) -> Tensor:
        # States of lower blocks are kept by the inputs of a whole pass.
        chosen = [requests[number] for number in numbers]
        found = score_tokens(scored, chosen, max_length, max_tokens, share_prompts=False)
        return torch.tensor([-likelihood for likelihood, _ in found], dtype=torch.float64)

    def run_whole(numbers: list[int]) -> None:
        with reusing(model, states, positions):
            whole[numbers] = score(model, numbers)
        _require_finite(whole[numbers])

    every = request_batches(requests, max_length, max_tokens, length_limits(model.config))
    for batches in _groups(every, run_whole, states, max_bytes):
        for place, variation in enumerate(progress(variations)):
            changed = variation.make().eval()
            with reusing(changed, states, {variation.position}):
                for numbers in batches:
                    varied[place, numbers] = score(changed, numbers)
        for position in positions:
            states.forget(position)
    return RowLosses(whole, varied, torch.tensor([len(row.answer_ids) for row in rows]))


def streamed_losses(
    model: nn.Module,
    tensors: StoredTensors,
    rows: Sequence[Example],
    *,
    max_length: int,
    max_tokens: int,
    progress: Progress = iter,
) -> RowLosses:
    """Compute the losses of a model whose blocks are on disk, and without each block, loading every block once.

    The results are those of `row_losses` with `deletions`, bit for bit. tensors: the stored tensors of the blocks, by
    name in the model.

    Raises:
        InputError: when the model has a single block, or the loss of the unchanged model is not finite.
    """
    requests = [(row.prompt_ids, row.answer_ids) for row in rows]
    every = range(_several_blocks(model))

    def show(blocks: Sequence[int], description: str) -> Iterator[int]:
        return iter(progress(blocks))

    found = score_without_blocks(model, requests, max_length, max_tokens, tensors, every, show)
    whole, *varied = (torch.tensor([-value for value, _ in scores], dtype=torch.float64) for scores in found)
    _require_finite(whole)
    return RowLosses(whole, torch.stack(varied), torch.tensor([len(row.answer_ids) for row in rows]))


def _several_blocks(model: nn.Module) -> int:
    num_blocks = len(get_blocks(model))
    if num_blocks < 2:
        raise InputError("the model has a single block: nothing is left when it is deleted")
    return num_blocks


def _require_finite(losses: Tensor) -> None:
    if not losses.isfinite().all():
        raise InputError(
            "the loss of the model is not finite before any block is changed: look for NaN in its weights, or"
            ' compute in model.precision = "float32"'
        )


def _groups(
    batches: Sequence[list[int]], run: Callable[[list[int]], None], states: PrefixStates, max_bytes: int
) -> Iterator[list[list[int]]]:
    """Run the batches and yield them in groups, each as large as leaves room for the states of one more batch."""
    group: list[list[int]] = []
    for numbers in batches:
        before = states.num_bytes
        run(numbers)
        group.append(numbers)
        if 2 * states.num_bytes - before > max_bytes:
            yield group
            group = []
    if group:
        yield group


def _rearrangement(model: nn.Module, name: str, position: int, sources: Sequence[int]) -> Variation:
    return Variation(name, position, lambda: rearranged(model, [(source, False) for source in sources]))


def _with(every: Sequence[int], index: int, other: int) -> list[int]:
    return [other if place == index else place for place in every]
