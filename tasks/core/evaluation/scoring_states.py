"""The last hidden states of a scoring pass at chosen positions; a common beginning runs once, with its keys and values.

Shapes: M inputs, d width.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.locate_blocks import get_stack, text_config
from tasks.core.blocks.streaming import StoredTensors, run_streamed
from tasks.core.evaluation.prompt_trees import tree_batch
from tasks.core.evaluation.scoring_pass import Ids, ScoringPass

# Most bytes of hidden states that are kept between two blocks, where blocks are on disk.
MAX_BYTES = 4 << 30
# Bytes of a number in float32, the widest format of a state.
WIDE = 4
# (index of an input, position in it)
Place = tuple[int, int]
# Gets a pass, and a function that returns its last hidden states [number of places, d] at places of its members.
Score = Callable[[ScoringPass, Callable[[Sequence[Place]], Tensor]], None]


def can_share_prompts(model: Any) -> bool:
    """Return whether every block keeps keys and values by token, so that a later pass can continue after them.

    Recurrent blocks keep a state instead, which some families ignore when several tokens follow.
    """
    if "past_key_values" not in inspect.signature(get_stack(model).forward).parameters:
        return False
    layers = DynamicCache(config=text_config(model.config)).layers
    return all(
        isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers
    )


def states_at(
    model: Any, base: Callable[..., Any], inputs: Sequence[Ids], chosen: ScoringPass, places: Sequence[Place]
) -> Tensor:
    """Run one pass and return the last hidden states [number of places, d] at these places of its members.

    base: the model's stack, as `base_model_and_head` returns it.
    """
    if chosen.trees:
        return _tree_states(model, base, inputs, chosen, places)
    if chosen.start:
        return _shared_states(model, base, inputs, chosen, places)
    states = _run(base, [inputs[member] for member in chosen.members], input_device(model))
    index = {member: row for row, member in enumerate(chosen.members)}
    return _picked(states, [(index[member], position) for member, position in places])


def _tree_states(
    model: Any, base: Callable[..., Any], inputs: Sequence[Ids], chosen: ScoringPass, places: Sequence[Place]
) -> Tensor:
    """Run a pass whose rows are trees."""
    batch, device = tree_batch(inputs, chosen.trees, model.dtype), input_device(model)
    states = base(
        input_ids=batch.ids.to(device),
        attention_mask=batch.mask.to(device),
        position_ids=batch.positions.to(device),
        use_cache=False,
    ).last_hidden_state
    shared = {member: tree.shared for tree in chosen.trees for member in tree.members}
    where = []
    for member, position in places:
        row, column = batch.begins[member]
        where.append((row, position if position < shared[member] else column + position - shared[member]))
    return _picked(states, where)


def _shared_states(
    model: Any, base: Callable[..., Any], inputs: Sequence[Ids], chosen: ScoringPass, places: Sequence[Place]
) -> Tensor:
    """Run a pass in two parts, the second behind the keys and values of the first."""
    device = input_device(model)
    cache = DynamicCache(config=text_config(model.config))
    first = _run(base, chosen.beginnings(inputs), device, cache)
    begins = dict(zip(chosen.members, chosen.begins, strict=True))
    longer = [member for member in chosen.members if len(inputs[member]) > chosen.start]
    cache.reorder_cache(LongTensor([begins[member] for member in longer]))
    second = _run(base, [inputs[member][chosen.start :] for member in longer], device, cache)
    index = {member: row for row, member in enumerate(longer)}
    in_first = [place for place in places if place[1] < chosen.start]
    in_second = [place for place in places if place[1] >= chosen.start]
    found = torch.cat(
        [
            _picked(first, [(begins[member], position) for member, position in in_first]),
            _picked(second, [(index[member], position - chosen.start) for member, position in in_second]),
        ]
    )
    order = {place: at for at, place in enumerate([*in_first, *in_second])}
    return found[torch.tensor([order[place] for place in places], device=found.device)]


def score_streamed(
    model: nn.Module,
    tensors: StoredTensors,
    inputs: Sequence[Ids],
    passes: Sequence[ScoringPass],
    scores: Sequence[Score],
    progress: Callable[..., Iterator[Any]] | None = None,
    without: Sequence[int] = (),
) -> None:
    """Run passes through blocks that are on disk, as many passes at once as states fit. None shares a prompt.

    tensors: the stored tensors of the blocks, by name in the model. without: blocks each of which is left out in
    further runs, for which nothing more is loaded. scores: called for each pass, the first one for the model, the
    others for the model without each of these blocks.
    """
    assert not any(each.start for each in passes)
    device = input_device(model)
    width = text_config(model.config).hidden_size
    for chosen in _parts(inputs, passes, width * (1 + len(without))):
        further = [(number, block) for block in without for number in range(len(chosen))]
        rows = [_padded([inputs[member] for member in each.members]).to(device) for each in chosen]

        def see(number: int, states: Tensor, chosen: Sequence[ScoringPass] = chosen) -> None:
            variant, place = divmod(number, len(chosen))
            index = {member: row for row, member in enumerate(chosen[place].members)}
            scores[variant](
                chosen[place], lambda places: _picked(states, [(index[at], position) for at, position in places])
            )

        show = (lambda blocks: progress(blocks, description="scoring, blocks")) if progress else iter
        with torch.inference_mode():
            run_streamed(model, tensors, [(ids, None) for ids in rows], see_last=see, progress=show, without=further)


def _parts(inputs: Sequence[Ids], passes: Sequence[ScoringPass], width: int) -> Iterator[list[ScoringPass]]:
    """Yield runs of passes whose states, in float32, take at most `MAX_BYTES`, or one pass."""
    part: list[ScoringPass] = []
    held = 0
    for each in passes:
        size = WIDE * width * len(each.members) * max(len(inputs[member]) for member in each.members)
        if part and held + size > MAX_BYTES:
            yield part
            part, held = [], 0
        part.append(each)
        held += size
    if part:
        yield part


def _run(
    base: Callable[..., Any], rows: Sequence[Ids], device: torch.device, cache: DynamicCache | None = None
) -> Tensor:
    """Return the last hidden states [M, T, d] of rows, padded on the right to T tokens.

    The pass needs no mask: the positions that are read attend to the left only, and padding is on the right.
    """
    kept = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    return base(input_ids=_padded(rows).to(device), **kept).last_hidden_state


def _padded(rows: Sequence[Ids]) -> Tensor:
    """Return ids [M, T] of rows, padded on the right to T tokens."""
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for at, ids in enumerate(rows):
        padded[at, : len(ids)] = torch.tensor(ids)
    return padded


def _picked(states: Tensor, where: Sequence[tuple[int, int]]) -> Tensor:
    """Return the states [number of places, d] at (row, position)."""
    rows, positions = torch.tensor(where, dtype=torch.long, device=states.device).reshape(-1, 2).T
    return states[rows, positions]
