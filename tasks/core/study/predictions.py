"""Predictions of a model's blocks under a lens: distances between them, and the trajectory of a prediction.

Sources: CRaSh (arXiv 2310.15477), section 3.1 and figure 3; tuned lens (arXiv 2303.08112), section 4.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.core.study.divergences import Distances, entropy, kl_divergence, log_probabilities
from tasks.core.study.lens import Lens, lens_predictions, predicting, read_out, require_fit, states_at


@torch.inference_mode()
def functional_distances(
    model: nn.Module,
    lens: Lens,
    examples: Sequence[Example],
    num_tokens: int,
    *,
    max_tokens: int,
    pad_id: int = 0,
    progress: Callable[[list], Iterable] = iter,
) -> Distances:
    """Distances between the predictions of the N blocks under the lens, at `num_tokens` positions spread over all rows.

    The positions are evenly spaced among those followed by an answer token, or all of them if there are fewer. The
    ground of the Wasserstein distance is the model's surprisal at a token, -log p in nats: moving mass between tokens
    that are equally likely to the model costs nothing.

    Raises:
        InputError: when there are fewer than two positions, a state is not finite, or the lens does not fit.
    """
    require_fit(lens, model)
    model.eval()
    read, device = read_out(model), next(model.parameters()).device
    wanted = spread_positions([len(example.answer_ids) for example in examples], num_tokens)
    distances = Distances(lens.num_blocks)
    for indices in progress(token_batches(lengths_of(examples), max_tokens, length_limits(model.config))):
        if not any(wanted[index] for index in indices):
            continue
        batch = collate([examples[index] for index in indices], pad_id).to(device)
        chosen = _keep(predicting(batch), [wanted[index] for index in indices])
        for found in lens_predictions(lens, read, states_at(model, batch, chosen)):
            distances.update(found, found[-1])
    return distances


def spread_positions(counts: Sequence[int], num_wanted: int) -> list[list[int]]:
    """Choose evenly spaced positions over all rows in order; return the indices of the chosen positions of each row.

    Raises:
        InputError: when fewer than 2 positions are available or wanted.
    """
    total = sum(counts)
    if min(total, num_wanted) < 2:
        raise InputError(
            f"functional distances: {min(total, num_wanted)} position to compare predictions at; give two or more"
        )
    number = min(total, num_wanted)
    places = [index * total // number for index in range(number)]
    taken, start = [], 0
    for count in counts:
        taken.append([place - start for place in places if start <= place < start + count])
        start += count
    return taken


def _keep(chosen: Tensor, wanted: Sequence[Sequence[int]]) -> Tensor:
    """Keep only those of each row's chosen positions (bool [B, T]) with these indices among them."""
    kept = torch.zeros_like(chosen)
    for row, numbers in enumerate(wanted):
        places = chosen[row].nonzero().squeeze(-1)
        kept[row, places[torch.tensor(numbers, dtype=torch.long, device=places.device)]] = True
    return kept


@dataclass(frozen=True)
class Trajectory:
    """Predictions of a lens behind each of n blocks at T positions of a row.

    sources: index of each block in the full model; top: most likely token, [n, T]; probability: its probability;
    entropy: in nats; kl: KL(full model's output || prediction) in nats; final: the last block's log-probabilities.
    """

    sources: tuple[int, ...]
    top: Tensor
    probability: Tensor
    entropy: Tensor
    kl: Tensor
    final: Tensor


@torch.inference_mode()
def trace(
    model: nn.Module,
    lens: Lens,
    example: Example,
    *,
    num_positions: int,
    sources: Sequence[int] | None = None,
    reference: Tensor | None = None,
) -> Trajectory:
    """Trace the predictions at the last `num_positions` positions of a row, in a full model or one with dropped blocks.

    sources: the blocks of the full model that `model` runs. The lens reads each with its translator, except for the
    last, which is not translated, so that its predictions are the model's output. reference: log-probabilities
    [T, vocabulary] of the full model's output; by default those of `model`.

    Raises:
        InputError: when a state or prediction is not finite.
    """
    sources = tuple(range(len(get_blocks(model)))) if sources is None else tuple(sources)
    model.eval()
    read, batch = read_out(model), collate([example], 0).to(next(model.parameters()).device)
    states = states_at(model, batch, _last_positions(batch, num_positions), sources)
    final = log_probabilities(read(states[-1]), "the model")
    reference = final if reference is None else reference
    columns: list[tuple[Tensor, ...]] = []
    for place, (source, state) in enumerate(zip(sources, states, strict=True)):
        translated = state if place == len(states) - 1 else lens(source, state)
        found = log_probabilities(read(translated), f"block {source} under the lens")
        likeliest, top = found.max(-1)
        columns.append((top, likeliest.exp(), entropy(found), kl_divergence(reference.to(found.device), found)))
    top, probability, spread, kl = (torch.stack(column).cpu() for column in zip(*columns, strict=True))
    return Trajectory(sources, top, probability, spread, kl, final)


def _last_positions(batch: Batch, count: int) -> Tensor:
    chosen = batch.attention_mask.bool()
    return chosen & (chosen.flip(1).cumsum(1).flip(1) <= count)
