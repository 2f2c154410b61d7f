"""Operations of each block of a model, counted by torch in passes on the meta device.

This needs no knowledge of families: attention with latent keys, routed experts and shared experts are counted as the
family's code runs them. Shapes: T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from tasks.core.blocks.locate_blocks import get_blocks, get_stack, traits

# A quadratic polynomial needs three lengths; each is twice the one before.
LENGTHS = (8, 16, 32)
# Largest part of the longest pass's operations that may be left unexplained by the polynomial. Above it the polynomial
# does not hold: recurrent families compute in chunks, whose number rises in steps.
TOLERANCE = 0.02
# Errors that a family's code raises when it cannot run on the meta device.
FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError)


@dataclass(frozen=True)
class Operations:
    """Operations of one part of a model.

    multiplied: elements with which each token is multiplied; columns: columns of the attention, each of which takes
    4 T^2 operations for T tokens (queries times keys, and weights times values); is_exact: whether these two explain
    all operations.
    """

    multiplied: int
    columns: int
    is_exact: bool = True


def count_operations(model: Any) -> tuple[list[Operations], Operations] | None:
    """Count the operations of a model on the meta device, with attention as plain products.

    Returns (operations of each block, operations of all else but the head), or None when the family's code cannot run
    on the meta device.
    """
    if hasattr(model, "set_experts_implementation"):
        # One product for each token and each of its experts; other implementations read values, absent here.
        model.set_experts_implementation("batched_mm")
    try:
        passes = [_count(model, length) for length in LENGTHS]
    except FAULTS:
        return None
    found = [_fitted(counts) for counts in zip(*passes, strict=True)]
    return found[:-1], found[-1]


def _count(model: nn.Module, length: int) -> list[int]:
    """Count the operations of one row in each block and, as the last item, in all else but the head."""
    ids = torch.ones(1, length, dtype=torch.long, device="meta")
    kinds = [repr(sorted(traits(block).items())) for block in get_blocks(model)]
    with torch.no_grad(), _NothingPadded(), FlopCounterMode(display=False) as counter:
        with _first_of_each(get_blocks(model), kinds, counter) as found:
            get_stack(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        total = counter.get_total_flops()
    return [*(found[kind] for kind in kinds), total - sum(found.values())]


@contextmanager
def _first_of_each(blocks: nn.ModuleList, kinds: Sequence[str], counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Count the operations of the first block of each kind within the context; other blocks return its output."""
    found: dict[str, int] = {}
    given: dict[str, Any] = {}

    def counting(kind: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if kind not in found:
                before = counter.get_total_flops()
                given[kind] = forward(*args, **kwargs)
                found[kind] = counter.get_total_flops() - before
            return given[kind]

        return run

    try:
        for block, kind in zip(blocks, kinds, strict=True):
            block.forward = counting(kind, block.forward)
        yield found
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _fitted(counts: tuple[int, ...]) -> Operations:
    """Fit a T + b T^2 to the counts at the three lengths, and check whether a constant is left."""
    short, middle, long = counts
    step = LENGTHS[0]
    # f(2s) - f(s) = a s + 3 b s^2 and f(4s) - f(2s) = 2 a s + 12 b s^2.
    square = ((long - middle) - 2 * (middle - short)) / (6 * step**2)
    linear = (middle - short) / step - 3 * square * step
    left = short - linear * step - square * step**2
    return Operations(round(linear / 2), max(0, round(square / 4)), abs(left) <= TOLERANCE * long and square >= 0)


class _NothingPadded(TorchFunctionMode):
    """Return True when code reads a value of a mask on the meta device, as if no token were padded."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.item, Tensor.__bool__) and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))
