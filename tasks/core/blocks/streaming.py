"""Forward passes of a model whose blocks stay on disk: each block is loaded once and run on all batches.

Memory holds two blocks (one computes while the next is read), what surrounds the blocks, and one state per batch. On a
GPU, the next block is copied from pinned main memory, which holds it too, beside the kernels of the one that computes.
Other ways to run a model that does not fit load every block for every batch. Each pass through a block is one pass of
the family's code, so that masks, rotary embeddings and kinds of attention are its own: the blocks below hand their
input on, and the pass ends behind the block. The states are therefore those of a pass in memory, bit for bit.
Shapes: B rows, T tokens, d width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import forget_lengths
from tasks.core.blocks.locate_blocks import find_blocks, get_stack, text_config
from tasks.core.blocks.memory import give_back
from tasks.core.blocks.partial_passes import EndOfPassError, state_of
from tasks.core.errors import InputError

# Reads a tensor from disk when it is asked for, by its name in the model.
StoredTensors = Mapping[str, Tensor]
# (input_ids, attention_mask), [B, T] each
Inputs = tuple[Tensor, Tensor | None]
# (state that entered a block in main memory, state that left it on the device), [B, T, d] each
Seen = Callable[[int, int, Tensor | None, Tensor], None]


@dataclass
class _Pass:
    """The running pass: the block that computes, the state that enters it, and what leaves it.

    Block -1 stands for what is before the blocks, block N for what is behind all N. others: what a block returns beside
    its state; None in families whose blocks return the state alone.
    """

    num_blocks: int
    block: int = -1
    state: Tensor | None = None
    others: tuple[Any, ...] | None = None


def can_stream(model: nn.Module) -> bool:
    """Return whether blocks get nothing of the blocks below but what these return: no keys and values (Gemma 4)."""
    return not getattr(text_config(model.config), "num_kv_shared_layers", 0)


def run_streamed(
    model: nn.Module,
    tensors: StoredTensors,
    batches: Sequence[Inputs],
    see: Seen = lambda batch, index, before, state: None,
    see_last: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    without: Sequence[tuple[int, int]] = (),
) -> None:
    """Run all batches through block after block.

    model: with blocks on the meta device and everything else where it computes; blocks that are in memory stay there.
    tensors: the stored tensors of the blocks, by name in the model. see: called as soon as a state is computed, with
    the number of the batch, the index of the state, the state before (None for state 0) and the state; state 0 enters
    block 0, state i + 1 leaves block i, before any final norm. see_last: called with the number of a batch and its last
    hidden state, after the final norm; without it, nothing after the last block runs. progress: wraps the sequence of
    blocks. The states between two blocks are kept in main memory. without: further passes, numbered after the batches:
    (number of a batch, block that is left out); they begin at that block, with the batch's state.
    """
    path, blocks = find_blocks(model)
    device = input_device(model)
    inputs = [*batches, *(batches[number] for number, _ in without)]
    # Of the passes that have begun.
    states: dict[int, Tensor] = {}
    others: list[tuple[Any, ...] | None] = [None] * len(inputs)
    with _only_one_block(model) as run:
        for number, batch in enumerate(batches):
            state, _ = run(-1, None, None, batch)
            see(number, 0, None, state)
            states[number] = state.cpu()
        loaded = _loaded(path, blocks, tensors, device)
        for index in progress(range(len(blocks))):
            with _placed(blocks[index], next(loaded)):
                running = list(states)
                for place, (number, left_out) in enumerate(without, len(batches)):
                    if left_out == index:
                        # Some families add to the state in place.
                        states[place], others[place] = states[number].clone(), others[number]
                for number in running:
                    state, others[number] = run(index, states[number].to(device), others[number], inputs[number])
                    see(number, index + 1, states[number], state)
                    states[number] = state.cpu()
            # What stays is small and lies in the gaps of what was large: without this, they grow with every block.
            give_back()
        if see_last is not None:
            for number, last in states.items():
                see_last(number, run(len(blocks), last.to(device), others[number], inputs[number])[0])


def load_blocks(model: nn.Module, tensors: StoredTensors, indices: Iterable[int]) -> None:
    """Load some of the blocks that are on disk into the model itself, on the CPU, to stay.

    tensors: the stored tensors of the blocks, by name in the model.

    Raises:
        InputError: when the model has no such block.
    """
    path, blocks = find_blocks(model)
    for index in indices:
        if not 0 <= index < len(blocks):
            raise InputError(f"no block {index} to load: the model has blocks 0 to {len(blocks) - 1}")
        _set(blocks[index], _read(path, index, blocks[index], tensors, torch.device("cpu")))


_Run = Callable[[int, Tensor | None, tuple[Any, ...] | None, Inputs], tuple[Tensor, tuple[Any, ...] | None]]


@contextmanager
def _only_one_block(model: nn.Module) -> Iterator[_Run]:
    """Yield a function (index, state, others, inputs) that returns what block `index` makes of a state, and its others.

    others: what the block below returned beside the state. For index -1, it returns the state that enters block 0; for
    the number of blocks, the last hidden state.
    """
    _, blocks = find_blocks(model)
    stack, current = get_stack(model), _Pass(len(blocks))

    def run(
        index: int, state: Tensor | None, others: tuple[Any, ...] | None, inputs: Inputs
    ) -> tuple[Tensor, tuple[Any, ...] | None]:
        current.block, current.state, current.others = index, state, others
        forget_lengths(model)
        try:
            output = stack(input_ids=inputs[0], attention_mask=inputs[1], use_cache=False)
        except EndOfPassError:
            assert current.state is not None
            return current.state, current.others
        assert index == len(blocks), f"{type(stack).__name__} returned before block {index} ran"
        return output.last_hidden_state, None

    for index, block in enumerate(blocks):
        # An instance attribute overrides the method of the class and leaves the rest of the block unchanged.
        vars(block)["forward"] = partial(_forward, block.forward, index, current)
    try:
        yield run
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _forward(own: Callable[..., Any], index: int, current: _Pass, *args: Any, **kwargs: Any) -> Any:
    """Run the block that was asked for; hand the state through the blocks below it."""
    entering = args[0] if args else kwargs["hidden_states"]
    if current.block < 0:
        current.state = entering
        raise EndOfPassError
    if index < current.block:
        if index == current.num_blocks - 1:
            entering = current.state
        return entering if current.others is None else (entering, *current.others)
    assert current.state is not None
    output = own(current.state, *args[1:], **kwargs) if args else own(**(kwargs | {"hidden_states": current.state}))
    current.others = tuple(output[1:]) if isinstance(output, tuple | list) else None
    current.state = state_of(output)
    raise EndOfPassError


def _loaded(
    path: str, blocks: nn.ModuleList, tensors: StoredTensors, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each block on the device, by their names in the block; the next ones are read meanwhile."""

    copies = torch.cuda.Stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_read, path, 0, blocks[0], tensors, device, copies)
        for index in range(len(blocks)):
            found = following.result()
            if index + 1 < len(blocks):
                following = reader.submit(_read, path, index + 1, blocks[index + 1], tensors, device, copies)
            if copies is not None:
                for tensor in found.values():
                    # Its memory may be used again only behind the kernels that read it.
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield found
            del found


def _read(
    path: str,
    index: int,
    block: nn.Module,
    tensors: StoredTensors,
    device: torch.device,
    copies: torch.cuda.Stream | None = None,
) -> dict[str, Tensor]:
    """Return a block's tensors on the device. copies: on a GPU, the stream that makes them, waited for here."""
    names = [name for name, tensor in block.state_dict(keep_vars=True).items() if tensor.is_meta]
    stored = (tensors[f"{path}.{index}.{name}"] for name in names)
    if copies is None:
        # Copied: what is mapped from the file would be read when it is first used.
        return {name: tensor.to(device, copy=True) for name, tensor in zip(names, stored, strict=True)}
    with torch.cuda.stream(copies):
        found = {
            name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in zip(names, stored, strict=True)
        }
    copies.synchronize()
    return found


@contextmanager
def _placed(block: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """Give the block its tensors within the context, and leave it without memory behind."""
    _set(block, found)
    try:
        yield
    finally:
        _set(block, {name: tensor.to("meta") for name, tensor in found.items()})
        found.clear()


def _set(block: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = block.get_submodule(path)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[leaf] = tensor
