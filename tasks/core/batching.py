"""Examples as token ids, and batches that waste little on padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.blocks.length_limits import LengthLimits

IGNORED = -100  # the label that Hugging Face losses pass over


@dataclass(frozen=True)
class Example:
    """One row: what is given and what is to be answered, tokenised as it is scored. row: its number in its split."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    row: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. input_ids, attention_mask, labels: [B, T]; labels are -100 outside answers."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: tuple[int, ...]

    def to(self, device: str | torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), self.rows)


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad to the longest of these rows."""
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
    """Indices of batches whose padded size stays within max_tokens (a longer single row is a batch of its own).

    Sorted by length, longest first, so that what does not fit in memory fails at once. limits: of the model that runs
    them (`length_limits`); rows of a batch are on one side of each, so that none is computed otherwise than alone.
    """
    order = sorted(range(len(examples)), key=lambda index: -examples[index].num_tokens)
    batch: list[int] = []
    longest = 0
    for index in order:
        longest_with = max(longest, examples[index].num_tokens)
        parted = limits.group(longest_with) != limits.group(examples[index].num_tokens)
        if batch and (parted or longest_with * (len(batch) + 1) > max_tokens):
            yield batch
            batch, longest_with = [], examples[index].num_tokens
        batch.append(index)
        longest = longest_with
    if batch:
        yield batch


def padded_size(examples: Sequence[Example]) -> int:
    """Tokens of these rows as one batch, padding included."""
    return len(examples) * max(example.num_tokens for example in examples)


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """The order of rows in one epoch: a function of (seed, epoch) alone, on every machine."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(num_rows, generator=generator).tolist()


def training_batch(num_rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Row numbers of one step's batch: consecutive parts of shuffled epochs, the last part of an epoch included.

    A function of (seed, step), so that resuming needs no state of an iterator.
    """
    per_epoch = steps_per_epoch(num_rows, batch_size)
    epoch, place = divmod(step, per_epoch)
    return epoch_order(num_rows, seed, epoch)[place * batch_size : (place + 1) * batch_size]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Batches in one pass over the rows; a last, smaller one counts."""
    return -(-num_rows // batch_size)
