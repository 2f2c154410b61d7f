"""The effect of a stand-in's error on the loss at the end of the model, to first order.

A stand-in leaves the state behind its run off by r_t at token t. With g_t, the gradient of the loss at that state, the
loss changes by g_t . r_t; the mean of its square over tokens is r's Fisher information. Two errors of the same size may
differ in it by far: what the blocks above do not read costs nothing.
Shapes: d width, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch
from tasks.core.blocks.partial_passes import base_model_and_head, hooked, leaf_embeddings, real_tokens, state_of
from tasks.core.blocks.surgery import get_blocks
from tasks.core.evaluation.likelihoods import HEAD_ROWS
from tasks.core.stand_ins.least_squares import Run

# Tokens on which effects are measured at most: their states, outputs and gradients are kept for every block. They are
# the first ones of several rows.
NUM_TOKENS, TOKENS_OF_A_ROW = 1024, 256


@dataclass
class Probe:
    """Parts of held-out tokens, float32 on the CPU, by block.

    outputs: M, what the block's last linear module has added [T, d]; states: h, the block's output [T, d]; gradients:
    of the sum of the losses of all tokens of the row at that output [T, d].
    """

    outputs: dict[int, Tensor]
    states: dict[int, Tensor]
    gradients: dict[int, Tensor]

    def effect(self, run: Run, matrix: Tensor) -> float:
        """Return the mean square of the loss's first-order change by a stand-in T [d, d] of a run, in nats^2."""
        first, last = run
        change = matrix - torch.eye(len(matrix))
        residual = self.states[first] - self.states[last] + self.outputs[first] @ change
        return float((self.gradients[last] * residual).sum(1).square().mean())


def make_probe(model: nn.Module, paths: Sequence[str], batches: Iterable[Batch], runs: Sequence[Run]) -> Probe:
    """Run batches, on the model's device, forward and back through it, until `NUM_TOKENS` tokens are measured.

    paths: those of `residual_outputs`. Loss: of each next token of a row, in nats. No gradient of a weight is computed.
    """
    fronts, lasts = sorted({first for first, _ in runs}), sorted({last for _, last in runs})
    parts: list[Probe] = []
    count = 0
    with _watched(model, paths, fronts, sorted({*fronts, *lasts}), lasts) as seen:
        for batch in batches:
            real = batch.attention_mask.bool()
            _backward(model, batch, real)
            parts.append(_real_tokens(seen, real, NUM_TOKENS - count))
            if (count := count + int(real.sum())) >= NUM_TOKENS:
                break
    return Probe(*(_joined([vars(part)[name] for part in parts]) for name in ("outputs", "states", "gradients")))


def _backward(model: nn.Module, batch: Batch, real: Tensor) -> None:
    """Run a batch forward and back to its embeddings; hooks see the states and their gradients."""
    base, head = base_model_and_head(model)
    with torch.enable_grad(), leaf_embeddings(model) as leaf:
        last = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        hidden = last.last_hidden_state
        gradient = _gradient_of_last_states(head, hidden.detach(), batch.input_ids, real)
        torch.autograd.grad(hidden, leaf[0], gradient.to(hidden.dtype))


def _gradient_of_last_states(head: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor, real: Tensor) -> Tensor:
    """Return the gradient of the sum of all losses at the last hidden states [B, T, d]."""
    # In a model that is spread over GPUs, the last state and the logits are on other ones than the input.
    real, ids = real.to(hidden.device), ids.to(hidden.device)
    rows, columns = (real[:, 1:] & real[:, :-1]).nonzero(as_tuple=True)
    found = torch.zeros_like(hidden, dtype=torch.float32)
    for start in range(0, len(rows), HEAD_ROWS):
        at = rows[start : start + HEAD_ROWS], columns[start : start + HEAD_ROWS]
        states = hidden[at].requires_grad_()
        logits = head(states).float()
        loss = nn.functional.cross_entropy(logits, ids[at[0], at[1] + 1].to(logits.device), reduction="sum")
        found[at] = torch.autograd.grad(loss, states)[0].float()
    return found


@contextmanager
def _watched(
    model: nn.Module, paths: Sequence[str], fronts: Sequence[int], chosen: Sequence[int], lasts: Sequence[int]
) -> Iterator[Probe]:
    """Yield what is seen of the last pass: outputs of `fronts`, states of `chosen`, gradients of `lasts`, [B, T, d]."""
    blocks, seen = get_blocks(model), Probe({}, {}, {})

    def see_output(index: int) -> Callable[..., None]:
        return lambda _, args, output: seen.outputs.update({index: output.detach()})

    def see_state(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple, output: Tensor | tuple | list) -> None:
            state = state_of(output)
            # Some families add to a state in place, later in the pass.
            seen.states[index] = state.detach().clone()
            if index in wanted:
                state.register_hook(lambda gradient: seen.gradients.update({index: gradient}))

        return hook

    wanted = set(lasts)
    handles = [blocks[index].get_submodule(paths[index]).register_forward_hook(see_output(index)) for index in fronts]
    handles += [blocks[index].register_forward_hook(see_state(index)) for index in chosen]
    with hooked(handles):
        yield seen


def _real_tokens(seen: Probe, real: Tensor, most: int) -> Probe:
    """Return the first real tokens of a pass, as rows."""

    parts = vars(seen).values()
    return Probe(*({index: real_tokens(state, real)[:most] for index, state in part.items()} for part in parts))


def _joined(parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    return {index: torch.cat([part[index] for part in parts]) for index in parts[0]} if parts else {}
