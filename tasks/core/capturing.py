"""Forward passes that keep only the pooled states of every block, never the full states."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.batching import Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.streaming import StoredTensors, run_streamed
from tasks.core.blocks.surgery import capture_blocks, final_norm, get_blocks
from tasks.core.cka import BlockInfluence
from tasks.core.errors import InputError
from tasks.core.pooling import pool


@dataclass(frozen=True)
class States:
    """Pooled states of n examples after the embeddings (state 0) and after each of N blocks.

    pooled, last: float32 [N+1, n, d]; last is the state of the last token. block_influence: float32 [N] (ShortGPT:
    1 - cos of a block's input and output).
    """

    pooled: Tensor
    last: Tensor
    block_influence: Tensor
    num_tokens: int


# Pooled and last states of one batch, one pair for each state, [B, d] each.
Pairs = list[tuple[Tensor, Tensor]]


@torch.inference_mode()
def capture_states(
    model: torch.nn.Module,
    examples: Sequence[Example],
    *,
    pooling: str = "mean_weighted",
    with_final_norm: bool = False,
    max_tokens: int = 4096,
    pad_id: int = 0,
    progress: Callable[[list], Iterable] = iter,
    blocks: Sequence[int] | None = None,
    tensors: StoredTensors | None = None,
) -> States:
    """Capture pooled states in length-sorted batches of at most `max_tokens` padded tokens; reduce in float32.

    Nothing after the last block is run, so no language-model head, and at most two full states are in memory at a time.
    with_final_norm: apply the model's final norm to the last state, as the published code does. blocks: the numbers of
    a rearranged model's blocks for error messages. tensors: the stored tensors of the blocks, where these are on
    disk (`run_streamed`); one state of every batch is then in memory. Source: CRaSh, EMNLP 2023, section 3.1.

    Raises:
        InputError: when a state is not finite; the message names the first one.
    """
    model.eval()
    device = input_device(model)
    norm = final_norm(model) if with_final_norm else None
    influence = BlockInfluence()
    batches = token_batches(lengths_of(examples), max_tokens, length_limits(model.config))

    def made(indices: list[int]) -> tuple[Batch, _Reduce]:
        batch = collate([examples[index] for index in indices], pad_id).to(device)
        return batch, _Reduce(batch.attention_mask, pooling, influence, norm, len(get_blocks(model)))

    if tensors is None:
        found = [_through_all_blocks(model, *made(indices)) for indices in progress(batches)]
    else:
        found = _block_by_block(model, tensors, [made(indices) for indices in batches], progress)
    back = torch.tensor([index for indices in batches for index in indices]).argsort()
    pooled, last = (_stack([[pair[part] for pair in pairs] for pairs in found])[:, back] for part in (0, 1))
    _check_finite(pooled, blocks or range(len(pooled) - 1))
    return States(pooled, last, influence.result(), sum(example.num_tokens for example in examples))


def _through_all_blocks(model: torch.nn.Module, batch: Batch, reduce: "_Reduce") -> Pairs:
    with capture_blocks(model, reduce) as run:
        return run(batch.input_ids, batch.attention_mask)


def _block_by_block(
    model: torch.nn.Module,
    tensors: StoredTensors,
    batches: list[tuple[Batch, "_Reduce"]],
    progress: Callable[[list], Iterable],
) -> list[Pairs]:
    found: list[Pairs] = [[] for _ in batches]

    def see(number: int, index: int, before: Tensor | None, state: Tensor) -> None:
        reduce = batches[number][1]
        reduce.before = before
        found[number].append(reduce(index, state))
        # On a GPU, there is room for the state of one batch.
        reduce.before = None

    inputs = [(batch.input_ids, batch.attention_mask) for batch, _ in batches]
    run_streamed(model, tensors, inputs, see, progress=lambda indices: progress(list(indices)))
    return found


class _Reduce:
    """Reduce each full state [B, T, d] to (pooled, last), [B, d] each, as soon as it is computed."""

    def __init__(
        self, mask: Tensor, pooling: str, influence: BlockInfluence, norm: torch.nn.Module | None, num_blocks: int
    ) -> None:
        self.mask, self.pooling, self.influence = mask, pooling, influence
        self.norm, self.num_blocks = norm, num_blocks
        self.before: Tensor | None = None

    def __call__(self, index: int, state: Tensor) -> tuple[Tensor, Tensor]:
        # When a model is spread over GPUs, each state may be on another device.
        mask = self.mask.to(state.device)
        if self.before is not None:
            self.influence.update(index - 1, self.before.to(state.device), state, mask)
        self.before = state
        if self.norm is not None and index == self.num_blocks:
            state = self.norm(state)
        mask = mask.to(state.device)
        return pool(state, mask, self.pooling).cpu(), pool(state, mask, "last").cpu()


def _stack(batches: list[list[Tensor]]) -> Tensor:
    """Stack [batches][N+1] tensors [rows, d] to one tensor [N+1, n, d]."""
    return torch.stack([torch.cat(parts) for parts in zip(*batches, strict=True)])


def _check_finite(states: Tensor, blocks: Sequence[int]) -> None:
    broken = (~states.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        name = "the embeddings" if broken[0] == 0 else f"block {blocks[broken[0] - 1]}"
        raise InputError(
            f"the output of {name} holds NaN or infinite values; check the model's weights there, or compute in"
            " float32 (model.precision)"
        )
