"""Tokenised examples, and batches with little padding."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.core.blocks.length_limits import LengthLimits

IGNORED = -100  # the label that Hugging Face losses ignore
# Fixed cost of a forward pass, in tokens: it reads all weights and starts all operations. Measured: 150 tokens on two
# cores of a CPU for a model of 135 million parameters. Small models on a GPU need more.
PASS_COST = 512


@dataclass(frozen=True)
class Example:
    """One row: the prompt and the answer, tokenised as for scoring. row: the index of the row in its split."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    row: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the prompt and the answer."""
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. input_ids, attention_mask, labels: [B, T]; labels are -100 outside answers."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: tuple[int, ...]

    def to(self, device: str | torch.device) -> "Batch":
        """Return a copy of the batch on a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), self.rows)


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Make one batch of these rows, padded to the longest."""
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id)
    attention_mask = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for place, example in enumerate(examples):
        ids = torch.tensor((*example.prompt_ids, *example.answer_ids))
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
        labels[place, len(example.prompt_ids) : len(ids)] = ids[len(example.prompt_ids) :]
    return Batch(input_ids, attention_mask, labels, tuple(example.row for example in examples))


class Prefixed(Sequence[Example]):
    """Rows with the same ids in front of each prompt, made when they are asked for."""

    def __init__(self, ids: tuple[int, ...], examples: Sequence[Example]) -> None:
        self._ids, self._examples = ids, examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        found = self._examples[index]
        return replace(found, prompt_ids=(*self._ids, *found.prompt_ids))


def prepend_ids(ids: tuple[int, ...], examples: Sequence[Example]) -> Sequence[Example]:
    """Return the rows with these ids in front of each prompt; the same rows where there are none."""
    return Prefixed(ids, examples) if ids else examples


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Tokens of each row."""
    return [example.num_tokens for example in examples]


def token_batches(lengths: Sequence[int], max_tokens: int, limits: LengthLimits) -> list[list[int]]:
    """Return the indices of batches of at most max_tokens padded tokens (a single longer row forms its own batch).

    The batches are those of sorted rows with the fewest padded tokens in all, where each batch counts as `PASS_COST`
    more. They come longest first, so that a batch too large for the memory fails at once. lengths: tokens of each row;
    limits: those of the model that runs the batches (`length_limits`). All rows of a batch are on the same side of each
    limit, so that the model computes each row as it would alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    _, parts = cheapest_parts(_batch_costs([lengths[index] for index in order], max_tokens, limits))
    return [order[part] for part in parts]


def _batch_costs(lengths: Sequence[int], max_tokens: int, limits: LengthLimits) -> Iterator[NDArray[np.float64]]:
    """Yield the costs of the batches that end with each row, as `cheapest_parts` takes them."""
    longest, groups = np.array(lengths, dtype=float), [limits.group(length) for length in lengths]
    counts = np.arange(len(lengths), 0, -1.0)
    first = 0
    for last in range(len(lengths)):
        while first < last and ((last - first + 1) * lengths[first] > max_tokens or groups[first] != groups[last]):
            first += 1
        yield PASS_COST + counts[len(counts) - (last - first + 1) :] * longest[first : last + 1]


def cheapest_parts(costs: Iterable[Sequence[float] | NDArray[np.float64]]) -> tuple[float, list[slice]]:
    """Cut items into parts of neighbours with the lowest cost in all; return that cost, and the parts.

    costs: for each item, those of the parts that end with it, from the longest possible one to the item alone. Of cuts
    that cost the same, the one with the longer last part is taken.
    """
    # best[end]: cost of the best parts of the first `end` items; begun[end]: where the last of these parts begins.
    best, begun = array("d", [0.0]), [0]
    for end, ending in enumerate(costs, start=1):
        totals = np.array(best[end - len(ending) :]) + ending
        chosen = int(totals.argmin())
        best.append(totals[chosen])
        begun.append(end - len(ending) + chosen)
    parts, end = [], len(begun) - 1
    while end > 0:
        parts.append(slice(begun[end], end))
        end = begun[end]
    return best[-1], parts[::-1]


def padded_size(examples: Sequence[Example]) -> int:
    """Number of tokens of these rows as one batch, including padding."""
    return len(examples) * max(example.num_tokens for example in examples)


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Order of the rows in one epoch, which depends only on (seed, epoch) and is the same on every machine."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(num_rows, generator=generator).tolist()


def training_batch(num_rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Row indices of the batch of one step: consecutive parts of shuffled epochs, including a smaller last part.

    The batch depends only on (seed, step), so that resuming needs no iterator state.
    """
    per_epoch = steps_per_epoch(num_rows, batch_size)
    epoch, place = divmod(step, per_epoch)
    return epoch_order(num_rows, seed, epoch)[place * batch_size : (place + 1) * batch_size]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Number of batches in one epoch, including a smaller last batch."""
    return -(-num_rows // batch_size)
