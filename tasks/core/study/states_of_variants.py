"""States of a model when each block runs alone on the embeddings, or after other blocks were dropped.

Both are published variants of CRaSh's clustering (arXiv 2310.15477, section 3.2). One model is in memory: every pass
runs a rearranged view of its tensors, and the model itself does not change.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from tasks.core.batching import Example
from tasks.core.blocks.devices import EVERY, place
from tasks.core.blocks.surgery import get_blocks, rearranged
from tasks.core.capturing import States, capture_states
from tasks.core.cka import cka
from tasks.core.plan.by_similarity import drop_iteratively

Bar = Callable[[Iterable[Any]], Iterable[Any]]


def base_device(device: str) -> str:
    """Device for the model to be rearranged: `device` itself, so that no pass moves weights, or the CPU for "auto"."""
    return "cpu" if device == EVERY else device


def states_alone(
    model: nn.Module, examples: Sequence[Example], *, device: str, progress: Bar = iter, **options: Any
) -> States:
    """Capture state 0, the embeddings, and state i + 1, the output of block i alone on them.

    block_influence is that of each block on the embeddings. model: on `base_device(device)`; the rearranged models are
    placed on `device`. options: those of `capture_states`.
    """
    alone = [
        _captured(model, [block], examples, device, **options) for block in progress(range(len(get_blocks(model))))
    ]
    return States(
        torch.cat([alone[0].pooled[:1], *(states.pooled[1:] for states in alone)]),
        torch.cat([alone[0].last[:1], *(states.last[1:] for states in alone)]),
        torch.cat([states.block_influence for states in alone]),
        alone[0].num_tokens,
    )


def drop_blocks(
    model: nn.Module,
    examples: Sequence[Example],
    num_kept: int,
    *,
    estimator: str,
    protected: Sequence[int] = (),
    device: str,
    progress: Bar = iter,
    **options: Any,
) -> list[int]:
    """Drop blocks with `drop_iteratively`, running the support set before each drop; return them in that order.

    model: on `base_device(device)`; the rearranged models are placed on `device`. options: those of `capture_states`.
    """
    num_blocks = len(get_blocks(model))
    passes = iter(progress(range(num_blocks - num_kept)))

    def adjacent(left: list[int]) -> list[float]:
        next(passes, None)
        states = _captured(model, left, examples, device, **options).pooled[1:]
        similarity = cka(states, estimator, names=[f"block {block}" for block in left])
        return similarity.diagonal(1).tolist()

    dropped = drop_iteratively(num_blocks, num_kept, adjacent, protected)
    next(passes, None)  # close the progress bar
    return dropped


def _captured(model: nn.Module, blocks: list[int], examples: Sequence[Example], device: str, **options: Any) -> States:
    view = place(rearranged(model, [(block, False) for block in blocks]), device)
    return capture_states(view, examples, blocks=blocks, **options)
