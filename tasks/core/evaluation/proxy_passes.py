"""Passes of the full model and its emulator for the proxies: gradients, inputs of the tuned blocks, KL divergence.

Shapes: B rows, T tokens, M answer tokens, d width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.batching import IGNORED, Batch
from tasks.core.blocks.surgery import base_model_and_head

# Rows that go through the head together: 256 rows x 150k vocabulary entries take 150 MB in float32.
HEAD_ROWS = 256


@dataclass(frozen=True)
class Seen:
    """Results of one forward and backward pass.

    inputs: input of each tuned block [B, T, d], by its index in the full model; answers: last states before answer
    tokens [M, d]; head: states to logits; divergence: sum over answer tokens of KL(other || this) in nats.
    """

    inputs: dict[int, Tensor]
    answers: Tensor
    head: Callable[[Tensor], Tensor]
    divergence: float


class Side:
    """The full model or the emulator: run batches, and sum the gradients of its tuned blocks in float32."""

    def __init__(self, model: nn.Module, blocks: dict[int, nn.Module]) -> None:
        self._model, self._blocks = model, blocks
        self._base, self._head = base_model_and_head(model)
        self._parameters = {index: list(block.parameters()) for index, block in blocks.items()}
        self.gradients = {
            index: [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
            for index, parameters in self._parameters.items()
        }

    def run(self, batch: Batch, other: Seen | None = None) -> Seen:
        """Run a batch and add the gradients of its summed answer loss; with `other`, also sum the KL divergence."""
        every = [parameter for parameters in self._parameters.values() for parameter in parameters]
        with _only_trained(self._model, every), _inputs_of(self._blocks) as inputs:
            hidden = self._base(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).last_hidden_state
            targets = batch.labels[:, 1:].to(hidden.device)
            answered = targets != IGNORED
            answers = hidden[:, :-1][answered]
            gradient, divergence = self._through_head(answers.detach(), targets[answered], other)
            # A block on which no answer depends (which does not occur in a decoder) would have no gradient.
            found = iter(torch.autograd.grad(answers, every, gradient, allow_unused=True))
        for totals in self.gradients.values():
            for total in totals:
                if (own := next(found)) is not None:
                    total += own
        return Seen(inputs, answers.detach(), self._head, divergence)

    def _through_head(self, states: Tensor, targets: Tensor, other: Seen | None) -> tuple[Tensor, float]:
        """Return (gradient of the summed loss by the states [M, d], divergence), a few rows of logits at a time."""
        gradients: list[Tensor] = []
        divergence = 0.0
        for start in range(0, len(states), HEAD_ROWS):
            part = slice(start, start + HEAD_ROWS)
            rows = states[part].requires_grad_()
            ours = self._head(rows).float().log_softmax(-1)
            loss = nn.functional.nll_loss(ours, targets[part].to(ours.device), reduction="sum")
            gradients += torch.autograd.grad(loss, rows)
            if other is not None:
                divergence += _divergence(other, part, ours.detach())
        return torch.cat(gradients), divergence


@torch.no_grad()
def _divergence(other: Seen, part: slice, ours: Tensor) -> float:
    """Sum of KL(other || ours) in nats over these answer tokens. ours: log-probabilities [m, V]."""
    theirs = other.head(other.answers[part]).float().log_softmax(-1).to(ours.device)
    weights = theirs.exp()
    # Tokens of probability 0 add nothing, even if both log-probabilities are infinite.
    each = (weights * (theirs - ours)).masked_fill(weights == 0, 0.0)
    return float(each.sum(-1).double().sum())


@contextmanager
def _only_trained(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Let only these parameters require gradients within the context, so that the graph begins at the lowest one."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def _inputs_of(blocks: dict[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Yield a dictionary that collects the input of each block within the context: [B, T, d], without gradients."""
    seen: dict[int, Tensor] = {}

    def watch(index: int) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            # A copy: some families add to the residual stream in place.
            seen[index] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

        return before

    handles = [block.register_forward_pre_hook(watch(index), with_kwargs=True) for index, block in blocks.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
