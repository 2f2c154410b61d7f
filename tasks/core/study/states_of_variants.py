"""States of a model whose blocks run in another company: each alone on the embeddings, or after others were dropped.

Both are published variants of CRaSh's clustering (arXiv 2310.15477, section 3.2). One model is in memory: what runs is
a rearranged view of its tensors, and the model itself stays as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.batching import Example
from tasks.core.blocks.devices import EVERY, place
from tasks.core.blocks.surgery import get_blocks, rearranged
from tasks.core.capturing import States, capture_states
from tasks.core.cka import linear_cka, rbf_cka
from tasks.core.plan.measured import drop_iteratively

ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "linear_cka": linear_cka,
    "debiased_cka": partial(linear_cka, debiased=True),
    "rbf_cka": rbf_cka,
}
Bar = Callable[[Iterable[Any]], Iterable[Any]]


def base_device(device: str) -> str:
    """Where the model lies that is rearranged: on `device` itself, so that no pass moves weights, but whole."""
    return "cpu" if device == EVERY else device


def states_alone(
    model: nn.Module, examples: Sequence[Example], *, device: str, progress: Bar = iter, **options: Any
) -> States:
    """State 0 the embeddings, state i + 1 what block i alone makes of them; else as `capture_states`.

    block_influence is that of each block on the embeddings. model: on `base_device(device)`; what runs is placed on
    `device`.
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
    """Blocks in the order in which `drop_iteratively` takes them out, the support set being run after each.

    options: of `capture_states`. model: on `base_device(device)`; what runs is placed on `device`.
    """
    num_blocks = len(get_blocks(model))
    passes = iter(progress(range(num_blocks - num_kept)))

    def adjacent(left: list[int]) -> list[float]:
        next(passes, None)
        states = _captured(model, left, examples, device, **options).pooled[1:]
        similarity = ESTIMATORS[estimator](states, names=[f"block {block}" for block in left])
        return similarity.diagonal(1).tolist()

    dropped = drop_iteratively(num_blocks, num_kept, adjacent, protected)
    next(passes, None)  # closes the bar
    return dropped


def _captured(model: nn.Module, blocks: list[int], examples: Sequence[Example], device: str, **options: Any) -> States:
    view = place(rearranged(model, [(block, False) for block in blocks]), device)
    return capture_states(view, examples, blocks=blocks, **options)
