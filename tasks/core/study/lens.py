"""Predictions of the next token from a block's output: the logit lens, and the tuned lens (arXiv 2303.08112).

A lens maps the state behind each block by a separate affine translator to a state behind the last block, which the
model's final norm and head turn into logits. Without training, every translator is the identity: the logit lens. The
state behind the last block is not translated, so there the lens gives the model's output.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.batching import IGNORED, Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.locate_blocks import final_norm, get_blocks, get_stack, text_config
from tasks.core.blocks.partial_passes import base_model_and_head, capture_blocks
from tasks.core.errors import InputError
from tasks.core.study.divergences import kl_divergence, log_probabilities, positions_at_once

# Elements of the distributions of all blocks at the positions of one step, 128 MiB in float32. Each step reads the
# head's matrix from memory once per block; with a vocabulary of 150,000 this costs more than computing a few positions.
HELD_NUMBERS = 1 << 25

ReadOut = Callable[[Tensor], Tensor]


class Lens(nn.Module):
    """Affine translators with weight [N-1, d, d] and bias [N-1, d]; their output is added to the states behind blocks.

    There is one translator for each of the blocks 0 to N-2. Weights and biases are initialised to zero.

    Raises:
        InputError: when the model has a single block.
    """

    def __init__(self, num_blocks: int, width: int) -> None:
        super().__init__()
        if num_blocks < 2:
            raise InputError("a model with one block has no state that a lens could translate")
        self.weight = nn.Parameter(torch.zeros(num_blocks - 1, width, width))
        self.bias = nn.Parameter(torch.zeros(num_blocks - 1, width))

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the model, including the last one."""
        return len(self.weight) + 1

    def forward(self, block: int, state: Tensor) -> Tensor:
        """Translate a state [..., d] behind a block to a state behind the last block."""
        if block == len(self.weight):
            return state
        change = nn.functional.linear(state.to(self.weight), self.weight[block], self.bias[block])
        return state + change.to(state)


def make_lens(model: nn.Module) -> Lens:
    """Make the untrained lens of a model, on its device."""
    device = next(model.parameters()).device
    return Lens(len(get_blocks(model)), text_config(model.config).hidden_size).to(device)


def require_fit(lens: Lens, model: nn.Module) -> None:
    """Check that a lens fits a model.

    Raises:
        InputError: when the number of blocks or the width differs.
    """
    own, width = len(get_blocks(model)), text_config(model.config).hidden_size
    if (lens.num_blocks, lens.bias.shape[1]) != (own, width):
        raise InputError(
            f"the lens is of a model with {lens.num_blocks} blocks of width {lens.bias.shape[1]}, this one has {own} of"
            f" {width}: train a lens for it"
        )


def read_out(model: nn.Module) -> ReadOut:
    """Make the function from the state behind the last block to logits: [M, d] -> [M, vocabulary].

    It applies the model's final norm and head, and for OPT-350M, whose embeddings are narrower than its blocks, also
    the projection between them.
    """
    norm, (_, head) = final_norm(model), base_model_and_head(model)
    project = getattr(get_stack(model), "project_out", None) or nn.Identity()
    return lambda state: head(project(norm(state)))


def states_at(model: nn.Module, batch: Batch, chosen: Tensor, sources: Sequence[int] | None = None) -> list[Tensor]:
    """States behind all N blocks at the chosen positions (bool [B, T]), each [M, d] on the device of the last.

    sources: the numbers of a rearranged model's blocks for error messages.

    Raises:
        InputError: when a state is not finite; the message names the first such block.
    """

    def select(index: int, state: Tensor) -> Tensor:
        return state[chosen.to(state.device)] if index else state.new_empty(0)

    with capture_blocks(model, select) as run:
        states = run(batch.input_ids, batch.attention_mask)[1:]
    for position, state in enumerate(states):
        if not state.isfinite().all():
            raise InputError(
                f"the output of block {sources[position] if sources else position} holds NaN or infinite values; check"
                " the model's weights there, or compute in float32 (model.precision)"
            )
    return [state.to(states[-1].device) for state in states]


def predicting(batch: Batch) -> Tensor:
    """Positions that are followed by an answer token, bool [B, T]."""
    chosen = torch.zeros_like(batch.labels, dtype=torch.bool)
    chosen[:, :-1] = batch.labels[:, 1:] != IGNORED
    return chosen


def every_token(examples: Sequence[Example]) -> list[Example]:
    """Make rows in which every token but the first is an answer token; rows of a single token are left out.

    Raises:
        InputError: when fewer than two rows have two or more tokens.
    """
    rows = [(*example.prompt_ids, *example.answer_ids) for example in examples]
    found = [
        Example(ids[:1], ids[1:], example.row) for ids, example in zip(rows, examples, strict=True) if len(ids) > 1
    ]
    if len(found) < 2:
        raise InputError(
            f"a lens needs at least two rows of two or more tokens, these are {len(found)}: give more rows"
        )
    return found


def lens_predictions(lens: Lens, read: ReadOut, states: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the log-probabilities behind all blocks, [N, positions, vocabulary] float32, for a few positions at a time.

    Raises:
        InputError: when a value is NaN; the message names the block.
    """
    vocabulary = read(states[-1][:1]).shape[-1]
    step = positions_at_once(len(states), vocabulary, HELD_NUMBERS)
    for start in range(0, len(states[-1]), step):
        found = states[-1].new_empty(0)
        for block, state in enumerate(states):
            logits = read(lens(block, state[start : start + step]))
            if not block:
                found = torch.empty(len(states), *logits.shape, device=logits.device)
            found[block] = log_probabilities(logits, f"block {block} under the lens")
        yield found


@dataclass(frozen=True)
class Curves:
    """Agreement of the lens with the model's output by depth, float64 [N], means over positions.

    kl: KL(model's output || lens) in nats, last entry 0; agreement: share of positions with the same most likely token,
    last entry 1.
    """

    kl: Tensor
    agreement: Tensor
    num_positions: int


@torch.inference_mode()
def measure_curves(
    model: nn.Module,
    lens: Lens,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    pad_id: int = 0,
    progress: Callable[[list], Iterable] = iter,
) -> Curves:
    """Measure how close the lens of each block is to the model's output, at positions followed by an answer token.

    Raises:
        InputError: when the lens does not fit the model, or a state or prediction is not finite.
    """
    require_fit(lens, model)
    model.eval()
    read, device = read_out(model), next(model.parameters()).device
    kl, agreement = (torch.zeros(lens.num_blocks, dtype=torch.float64) for _ in range(2))
    num_positions = 0
    for indices in progress(token_batches(lengths_of(examples), max_tokens, length_limits(model.config))):
        batch = collate([examples[index] for index in indices], pad_id).to(device)
        for found in lens_predictions(lens, read, states_at(model, batch, predicting(batch))):
            kl += torch.stack([kl_divergence(found[-1], each).clamp_min(0).double().sum() for each in found]).cpu()
            top = found.argmax(-1)
            agreement += (top == top[-1]).double().sum(-1).cpu()
            num_positions += found.shape[1]
    return Curves(kl / num_positions, agreement / num_positions, num_positions)
