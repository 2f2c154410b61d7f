"""Inputs of linear modules, and gradients of the loss at their outputs, in one pass forward and back.

Shapes: B rows, T tokens, d width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, Example
from tasks.core.blocks.partial_passes import hooked, leaf_embeddings, real_tokens
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.core.gradot.choosing import Observed
from tasks.core.tuning.losses import AnswerLoss

# Tokens that are observed at most, and of one row: each module keeps the inputs and gradients of all of them.
NUM_TOKENS, TOKENS_OF_A_ROW = 1024, 256
# The number of a block, and the path of a linear module within it.
Place = tuple[int, str]


@dataclass
class _Call:
    """One call of a linear module: inputs [B, T, in], and later the gradient at its outputs [B, T, out]."""

    inputs: Tensor
    gradients: Tensor | None = None


def observe(
    model: nn.Module, places: Mapping[Place, Sequence[Place]], batches: Iterable[Batch]
) -> dict[Place, Observed]:
    """Run batches, on the model's device, forward and back, and observe all their tokens.

    places: the modules that share a weight, by the block and path under which they are returned. Loss: of the answers,
    in nats, summed over their tokens. Observed: float32 on the CPU. No gradient of a weight is computed.

    Raises:
        InputError: when the loss's gradient is not finite.
    """
    found, loss = defaultdict[Place, list[Observed]](list), AnswerLoss(model)
    for batch in batches:
        real = batch.attention_mask.bool()
        with _watched(model, [each for group in places.values() for each in group]) as calls:
            _backward(model, loss, batch)
        for name, group in places.items():
            found[name] += [_observed(call, real) for each in group for call in calls[each]]
    whole = {name: Observed(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}
    for (block, path), seen in whole.items():
        if not seen.gradients.isfinite().all():
            raise InputError(f"block {block}, {path}: gradients of the loss are not finite; take float32")
    return whole


def observed_rows(rows: Iterable[Example]) -> list[Example]:
    """Return the first rows that have `NUM_TOKENS` tokens together, each with its last tokens, and so its answer."""
    found: list[Example] = []
    left = NUM_TOKENS
    for row in rows:
        most = min(TOKENS_OF_A_ROW, left)
        answer = row.answer_ids[: most - 1]
        cut = replace(row, prompt_ids=row.prompt_ids[-(most - len(answer)) :], answer_ids=answer)
        found.append(cut)
        if (left := left - cut.num_tokens) < 2:
            break
    return found


def _backward(model: nn.Module, loss: AnswerLoss, batch: Batch) -> None:
    with torch.enable_grad(), leaf_embeddings(model) as leaf:
        summed, _ = loss(batch)
        torch.autograd.grad(summed, leaf[0])


@contextmanager
def _watched(model: nn.Module, places: Sequence[Place]) -> Iterator[dict[Place, list[_Call]]]:
    """Yield the calls of the linear modules in the passes of the context."""
    blocks, calls = get_blocks(model), defaultdict[Place, list[_Call]](list)

    def see(place: Place) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
            call = _Call(args[0].detach())
            calls[place].append(call)
            output.register_hook(lambda gradient: setattr(call, "gradients", gradient))

        return hook

    modules = {place: blocks[place[0]].get_submodule(place[1]) for place in places}
    with hooked(module.register_forward_hook(see(place)) for place, module in modules.items()):
        yield calls


def _observed(call: _Call, real: Tensor) -> Observed:
    """Return the real tokens of a call, as rows."""
    assert call.gradients is not None, "the loss depends on every block"
    return Observed(real_tokens(call.inputs, real), real_tokens(call.gradients, real))
