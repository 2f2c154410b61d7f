"""Forward passes that begin at a cached state between two blocks, so that the blocks below it do not run again.

The pass runs the family's code, with its masks, rotary embeddings and kinds of attention; only the blocks below a
cached state return their input. The output is therefore the same as that of a full pass, bit for bit.
Shapes: B rows, T tokens, d width.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tasks.core.blocks.locate_blocks import get_blocks, get_stack

# Room for 16 states of 8192 tokens of width 4096 in float32.
MAX_BYTES = 2 << 30

Inputs = tuple[Any, ...]


class PrefixStates:
    """Cache of the input states [B, T, d] of blocks, keyed by the block's position and the inputs of the pass.

    The state at the position N (the number of blocks) is the output of the last block. The states stay on the device on
    which they were computed and take at most `max_bytes`. A state that does not fit is not kept; it is recomputed
    whenever it is needed, with the same result.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._states: dict[tuple[int, Inputs], Tensor] = {}
        self._left = max_bytes
        # In some families the blocks return their state in a tuple; all blocks of a model do the same.
        self.in_tuple = False

    def get(self, position: int, inputs: Inputs) -> Tensor | None:
        """Return a copy of a state, or None; a copy because some families add to the residual stream in place."""
        found = self._states.get((position, inputs))
        return None if found is None else found.clone()

    def has(self, position: int, inputs: Inputs) -> bool:
        return (position, inputs) in self._states

    def put(self, position: int, inputs: Inputs, state: Tensor) -> None:
        """Keep a copy of the state, if it fits."""
        size = state.numel() * state.element_size()
        if size <= self._left and not self.has(position, inputs):
            self._states[position, inputs] = state.detach().clone()
            self._left -= size

    def forget(self, position: int) -> None:
        """Drop the states that enter this block, because a block below it changed or they are no longer needed."""
        for key in [key for key in self._states if key[0] == position]:
            state = self._states.pop(key)
            self._left += state.numel() * state.element_size()

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all kept states."""
        return sum(state.numel() * state.element_size() for state in self._states.values())


class _Pass:
    """The running pass: its inputs, and the first block that is computed."""

    inputs: Inputs | None = None
    begin = 0


@contextmanager
def reusing(model: nn.Module, states: PrefixStates, positions: Collection[int]) -> Iterator[None]:
    """Begin each pass within the context at the highest of `positions` with a cached state for its inputs.

    States computed at the other positions are kept for later passes. The caller must forget states that a change of
    weights invalidates: the state at a position depends on all blocks below it. The states may come from another
    arrangement of the model, as long as everything below the position is the same.
    """
    blocks, stack = get_blocks(model), get_stack(model)
    wanted = sorted(position for position in set(positions) if position > 0)
    assert not wanted or wanted[-1] <= len(blocks), f"no state {wanted[-1]} in a model of {len(blocks)} blocks"
    current = _Pass()

    def begin(_: nn.Module, args: tuple, kwargs: dict) -> None:
        current.inputs = _inputs(args, kwargs)
        known = (position for position in wanted if current.inputs and states.has(position, current.inputs))
        current.begin = max(known, default=0)

    skipped = list(blocks[: wanted[-1]]) if wanted else []
    before = [vars(block).get("forward") for block in skipped]
    handle = stack.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        for index, block in enumerate(skipped):
            # An instance attribute overrides the method of the class and leaves the rest of the block unchanged.
            vars(block)["forward"] = partial(_forward, block.forward, index + 1, index + 1 in wanted, states, current)
        yield
    finally:
        handle.remove()
        for block, own in zip(skipped, before, strict=True):
            del vars(block)["forward"]
            if own is not None:
                vars(block)["forward"] = own


def _forward(
    own: Callable[..., Any],
    behind: int,
    keep: bool,
    states: PrefixStates,
    current: _Pass,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run the block before position `behind`, or return the cached state there, or pass the block's input through."""
    if behind > current.begin:
        output = own(*args, **kwargs)
        if keep and current.inputs is not None:
            states.in_tuple = isinstance(output, tuple | list)
            states.put(behind, current.inputs, output[0] if states.in_tuple else output)
        return output
    assert current.inputs is not None, "a pass without inputs begins at the bottom"
    state = states.get(behind, current.inputs) if behind == current.begin else None
    if state is None:
        state = args[0] if args else kwargs["hidden_states"]
    return (state,) if states.in_tuple else state


def _inputs(args: tuple, kwargs: dict) -> Inputs | None:
    """Make a cache key of the inputs of a pass; None for inputs of unknown types, whose states are never reused."""
    named = {name: value for name, value in kwargs.items() if value is not None}
    if args:
        named["input_ids"] = args[0]
    if len(args) > 1 or not isinstance(named.get("input_ids"), Tensor):
        return None
    key: list[Any] = []
    for name, value in sorted(named.items()):
        if isinstance(value, Tensor):
            key += [name, tuple(value.shape), value.cpu().contiguous().numpy().tobytes()]
        elif isinstance(value, bool | int | float | str):
            key += [name, value]
        else:
            return None
    return tuple(key)
