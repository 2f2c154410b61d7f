"""Proxies: the model owner's measures of how close an emulator is to the full model, without tuning or private rows.

Offsite-Tuning (arXiv 2302.04870, section 3) requires two things of an emulator: gradients of the tuned blocks and
outputs that are close to those of the full model. Shapes: B rows, T tokens, d width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tasks.core.batching import Example, collate, lengths_of, token_batches
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.core.evaluation.proxy_passes import Side
from tasks.core.plan.layout import Plan


@dataclass(frozen=True)
class Proxies:
    """Proxies of the emulator of one plan.

    gradient_cosine: cosine of the tuned blocks' gradients of the answer loss, emulator against full model, all tuned
    parameters as one vector; kl: KL(full || emulator) of the next token in nats, mean over answer tokens; state_error:
    ||h_emulator - h_full|| / ||h_full|| at the tuned blocks' inputs, mean over the blocks, each over all real tokens.
    block_*: values of each tuned block, by its index in the full model.
    """

    gradient_cosine: float
    kl: float
    state_error: float
    block_gradient_cosine: dict[int, float]
    block_state_error: dict[int, float]
    num_tokens: int
    num_answer_tokens: int


def measure_proxies(
    full: nn.Module,
    emulator: nn.Module,
    plan: Plan,
    examples: Sequence[Example],
    *,
    max_tokens: int = 4096,
    pad_id: int = 0,
    progress: Callable[[list[list[int]]], Iterable[list[int]]] = iter,
) -> Proxies:
    """Compare the emulator of `plan` with the full model on `examples`, which need answers.

    Both models must be in evaluation mode and may share their tensors (`with_layout`). Batches hold up to `max_tokens`
    padded tokens. An emulator that keeps every block gives exactly 1, 0 and 0 on a CPU.

    Raises:
        InputError: when an example has no answer, or a proxy is not finite.
    """
    if not all(example.answer_ids for example in examples):
        raise InputError("the support set has rows without an answer, of which no gradient can be taken")
    place = {source: position for position, (source, is_tuned) in enumerate(plan.layout) if is_tuned}
    full_blocks, emulator_blocks = get_blocks(full), get_blocks(emulator)
    left = Side(full, {index: full_blocks[index] for index in plan.tuned})
    right = Side(emulator, {index: emulator_blocks[place[index]] for index in plan.tuned})
    device = next(full.parameters()).device
    errors, divergence, num_answers = StateErrors(plan.tuned), 0.0, 0
    for indices in progress(token_batches(lengths_of(examples), max_tokens, length_limits(full.config))):
        batch = collate([examples[index] for index in indices], pad_id).to(device)
        expected = left.run(batch)
        found = right.run(batch, expected)
        errors.update(expected.inputs, found.inputs, batch.attention_mask)
        divergence += found.divergence
        num_answers += len(expected.answers)
    cosines, overall = gradient_cosines(left.gradients, right.gradients)
    by_block = errors.result()
    result = Proxies(
        gradient_cosine=overall,
        kl=divergence / num_answers,
        state_error=sum(by_block.values()) / len(by_block),
        block_gradient_cosine=cosines,
        block_state_error=by_block,
        num_tokens=sum(example.num_tokens for example in examples),
        num_answer_tokens=num_answers,
    )
    _require_finite(result)
    return result


class StateErrors:
    """Streaming sums of squared differences of the tuned blocks' inputs, over real tokens."""

    def __init__(self, tuned: Sequence[int]) -> None:
        self._different, self._size = dict.fromkeys(tuned, 0.0), dict.fromkeys(tuned, 0.0)

    def update(self, expected: dict[int, Tensor], found: dict[int, Tensor], mask: Tensor) -> None:
        """Add a batch; inputs [B, T, d], mask [B, T]."""
        for index, state in expected.items():
            real = mask.to(state.device).bool()
            ours = state[real].double()
            self._different[index] += float((found[index].to(state.device)[real].double() - ours).square().sum())
            self._size[index] += float(ours.square().sum())

    def result(self) -> dict[int, float]:
        """Relative error ||difference|| / ||full model's state|| by block; 0 when both are zero."""
        return {
            index: math.sqrt(self._different[index] / size) if size else math.inf if self._different[index] else 0.0
            for index, size in self._size.items()
        }


def gradient_cosines(left: dict[int, list[Tensor]], right: dict[int, list[Tensor]]) -> tuple[dict[int, float], float]:
    """Cosine of the gradients of each block, and of all of them as one vector."""
    products = {index: _products(left[index], right[index]) for index in left}
    product, own, other = (sum(parts) for parts in zip(*products.values(), strict=True))
    return {index: _cosine(*parts) for index, parts in products.items()}, _cosine(product, own, other)


def _products(left: list[Tensor], right: list[Tensor]) -> tuple[float, float, float]:
    """Inner products (left . right, left . left, right . right) in float64."""
    pairs = [(a.double(), b.to(a.device).double()) for a, b in zip(left, right, strict=True)]
    return (
        sum(float((a * b).sum()) for a, b in pairs),
        sum(float((a * a).sum()) for a, _ in pairs),
        sum(float((b * b).sum()) for _, b in pairs),
    )


def _cosine(product: float, left: float, right: float) -> float:
    """Cosine from inner products: exactly 1 for equal vectors, also when both are zero; 0 when only one is zero."""
    if not left or not right:
        return float(left == right)
    return max(-1.0, min(1.0, product / math.sqrt(left * right)))


def _require_finite(found: Proxies) -> None:
    for name in ("gradient_cosine", "kl", "state_error"):
        if not math.isfinite(getattr(found, name)):
            raise InputError(
                f"{name} is not finite; check the model's weights, or compute in float32 (model.precision)"
            )
