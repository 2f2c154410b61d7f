"""Forward passes that keep only what is measured: pooled states of every block, never the states themselves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.core.batching import Example, collate, token_batches
from tasks.core.blocks import capture_blocks
from tasks.core.blocks import final_norm as find_final_norm
from tasks.core.cka import BlockInfluence
from tasks.core.errors import InputError
from tasks.core.pooling import pool


@dataclass(frozen=True)
class States:
    """Pooled states of n examples after the embeddings (state 0) and after each of N blocks.

    pooled, last: float32 [N+1, n, d]; block_influence: float32 [N] (ShortGPT: 1 - cos of a block's input and output).
    """

    pooled: Tensor
    last: Tensor
    block_influence: Tensor
    num_tokens: int


@torch.inference_mode()
def capture_states(
    model: torch.nn.Module,
    examples: Sequence[Example],
    *,
    pooling: str,
    final_norm: bool,
    max_tokens: int,
    pad_id: int,
    progress: Callable[[list], Iterable] = iter,
) -> States:
    """Run the examples in length-sorted batches of at most `max_tokens` padded tokens; reductions in float32.

    No language-model head is run and nothing behind the last block. Raises InputError naming the first state that
    is not finite. Source: CRaSh, EMNLP 2023, section 3.1.
    """
    model.eval()
    device = next(model.parameters()).device
    norm = find_final_norm(model) if final_norm else None
    pooled: list[list[Tensor]] = []
    last: list[list[Tensor]] = []
    order: list[int] = []
    influence = BlockInfluence()
    batches = token_batches(examples, max_tokens)
    for indices in progress(list(batches)):
        batch = collate([examples[index] for index in indices], pad_id).to(device)
        with capture_blocks(model) as run:
            states = run(batch.input_ids, batch.attention_mask)
        influence.update(states, batch.attention_mask)
        if norm is not None:
            states[-1] = norm(states[-1])
        pooled.append([pool(state, batch.attention_mask, pooling).cpu() for state in states])
        last.append([pool(state, batch.attention_mask, "last").cpu() for state in states])
        order.extend(indices)
    back = torch.tensor(order).argsort()
    stacked = _stack(pooled)[:, back]
    _check_finite(stacked)
    num_tokens = sum(len(example.prompt_ids) + len(example.answer_ids) for example in examples)
    return States(stacked, _stack(last)[:, back], influence.result(), num_tokens)


def _stack(batches: list[list[Tensor]]) -> Tensor:
    """[batches][N+1] of [rows, d] to [N+1, n, d]."""
    return torch.stack([torch.cat(parts) for parts in zip(*batches, strict=True)])


def _check_finite(states: Tensor) -> None:
    broken = (~states.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        name = "the embeddings" if broken[0] == 0 else f"block {broken[0] - 1}"
        raise InputError(
            f"the output of {name} holds NaN or infinite values; check the model's weights there, or compute in"
            " float32 (model.precision)"
        )
