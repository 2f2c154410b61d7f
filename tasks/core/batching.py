"""Tokenised examples, and batches with little padding."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
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


def token_batches(examples: Sequence[Example], max_tokens: int, limits: LengthLimits) -> Iterator[list[int]]:
    """Yield the indices of batches of at most max_tokens padded tokens (a single longer row forms its own batch).

    The batches are those of sorted rows with the fewest padded tokens in all, where each batch counts as `PASS_COST`
    more. They come longest first, so that a batch too large for the memory fails at once. limits: those of the model
    that runs the batches (`length_limits`). All rows of a batch are on the same side of each limit, so that the model
    computes each row as it would alone.
    """
    order = sorted(range(len(examples)), key=lambda index: -examples[index].num_tokens)
    lengths = [examples[index].num_tokens for index in order]
    # best[end]: lowest cost of batches of the first `end` rows; begun[end]: where the last of these batches begins.
    best, begun = [0.0, *[math.inf] * len(order)], [0] * (len(order) + 1)
    for begin, longest in enumerate(lengths):
        for end in _ends(lengths, begin, max_tokens, limits):
            cost = best[begin] + PASS_COST + (end - begin) * longest
            if cost < best[end]:
                best[end], begun[end] = cost, begin
    batches = []
    end = len(order)
    while end > 0:
        batches.append(order[begun[end] : end])
        end = begun[end]
    yield from reversed(batches)


def _ends(lengths: Sequence[int], begin: int, max_tokens: int, limits: LengthLimits) -> Iterator[int]:
    """Yield where a batch that begins there may end."""
    longest = max(1, lengths[begin])
    for end in range(begin + 1, min(len(lengths), begin + max(1, max_tokens // longest)) + 1):
        yield end
        if end < len(lengths) and limits.group(lengths[end]) != limits.group(longest):
            return


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
