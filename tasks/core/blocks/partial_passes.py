"""Partial forward passes: every block's output without the head, and the head without the blocks."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from tasks.core.blocks.anatomy import find_blocks, get_stack
from tasks.core.blocks.length_limits import forget_lengths
from tasks.core.errors import InputError


class _AllSeenError(Exception):
    """Ends a forward pass once the last needed block has run."""


def state_of(output: Tensor | tuple | list) -> Tensor:
    """The state that a block gives: its output, or the first part of it (a tuple in some families, a list in GPT)."""
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def capture_blocks(
    model: nn.Module, reduce: Callable[[int, Tensor], Any] | None = None, last: int | None = None
) -> Iterator[Callable[..., list[Any]]]:
    """Within the context, the value is `run(input_ids, attention_mask) -> list` of the states 0 .. last + 1.

    State 0 is what enters block 0, state i + 1 the raw output of block i (before any final norm), each [B, T, d].
    `reduce(state_index, state)` is called as soon as a state exists; its result is listed in the state's place, so that
    at most one full state is alive (pooling, for example). Nothing behind block `last` (default: the final one) runs:
    later blocks, norm and head cost nothing. Gradients are the caller's affair (`torch.inference_mode`).
    """
    _, blocks = find_blocks(model)
    stack = get_stack(model)
    last = len(blocks) - 1 if last is None else last
    if not 0 <= last < len(blocks):
        raise InputError(f"no block {last} to stop after: the model has blocks 0 to {len(blocks) - 1}")
    states: list[Any] = []

    def see(state: Tensor) -> None:
        states.append(state if reduce is None else reduce(len(states), state))

    def before_first(_: nn.Module, args: tuple, kwargs: dict) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    def after_each(_: nn.Module, args: tuple, output: Tensor | tuple | list) -> None:
        see(state_of(output))
        if len(states) == last + 2:
            raise _AllSeenError

    def run(input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Any]:
        states.clear()
        forget_lengths(model)
        try:
            stack(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        except _AllSeenError:
            return list(states)
        finally:
            states.clear()
        raise AssertionError(f"{type(stack).__name__} returned before block {last} ran")

    handles = [blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    handles += [block.register_forward_hook(after_each) for block in blocks[: last + 1]]
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_runs(model: nn.Module, runs: Sequence[tuple[int, int]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within the context every pass leaves what entered and what left each run of blocks (first, last), in order.

    States are [B, T, d] and part of the graph; runs must be ascending and apart.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    entered: list[Tensor] = []
    _, blocks = find_blocks(model)

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, args: tuple, output: Tensor | tuple | list) -> None:
        seen.append((entered.pop(), state_of(output)))

    handles = [blocks[first].register_forward_pre_hook(before, with_kwargs=True) for first, _ in runs]
    handles += [blocks[last].register_forward_hook(after) for _, last in runs]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def run_through(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    runs: Sequence[tuple[int, int]],
    given: Sequence[Tensor],
) -> list[Tensor]:
    """What leaves each run of blocks (first, last) when `given` enters it, each [B, T, d].

    One pass of the family's own code, so that masks, rotary embeddings and kinds of attention are those of these
    positions; in it the state before each run is replaced. Nothing behind the last run is computed.
    """
    left: list[Tensor] = []
    _, blocks = find_blocks(model)
    waiting = list(given)

    def replace(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        state = waiting.pop(0)
        if args:
            return (state.to(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": state.to(kwargs["hidden_states"])}

    def keep(_: nn.Module, args: tuple, output: Tensor | tuple | list) -> None:
        left.append(state_of(output))
        if len(left) == len(runs):
            raise _AllSeenError

    handles = [blocks[first].register_forward_pre_hook(replace, with_kwargs=True) for first, _ in runs]
    handles += [blocks[last].register_forward_hook(keep) for _, last in runs]
    forget_lengths(model)
    try:
        get_stack(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except _AllSeenError:
        return left
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError(f"{type(model).__name__} returned before block {runs[-1][1]} ran")


def base_model_and_head(model: nn.Module) -> tuple[Callable[..., Any], Callable[[Tensor], Tensor]]:
    """(base, head) with `head(base(...).last_hidden_state[0])` equal to `model(...).logits[0]`.

    base: the stack, of which each pass is as the first one (`forget_lengths`).
    head: [M, d] -> [M, vocabulary], any selection of positions, so that logits exist at answer positions only.
    It is the family's own code (soft caps, scales and all), run on a shell of the model whose stack hands its input
    through; all modules and tensors are the model's own, so gradients and later changes reach them.
    """
    path = find_blocks(model)[0].split(".")[:-1]
    if not path:
        raise InputError(f"{type(model).__name__} has no language-model head; load it with AutoModelForCausalLM")
    shell = node = _shallow_copy(model)
    for name in path[:-1]:
        node._modules[name] = _shallow_copy(node._modules[name])
        node = node._modules[name]
    node._modules[path[-1]] = _PassThrough(get_stack(model))

    def head(hidden: Tensor) -> Tensor:
        return shell(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits.squeeze(0)

    stack = get_stack(model)

    def base(*args: Any, **kwargs: Any) -> Any:
        forget_lengths(model)
        return stack(*args, **kwargs)

    return base, head


# What accelerate puts on a module that it has placed: a forward that runs the original module, not the copy.
PLACED = ("forward", "_old_forward", "_hf_hook")


class _PassThrough(nn.Module):
    """Stands in for the stack: what comes in as embeddings goes out as last hidden states.

    Whatever else a family's head reads of its stack is the stack's own (Falcon-H1 multiplies by a number kept there).
    """

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        # Out of sight of the module tree: it is no part of the head.
        self._stack = (stack,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["_stack"][0], name)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPast:
        return _HiddenOnly(last_hidden_state=inputs_embeds)


@dataclass
class _HiddenOnly(BaseModelOutputWithPast):
    """Answers None for whatever else a family asks of its stack (cross attentions, router logits)."""

    def __getattr__(self, _: str) -> None:
        return None


def _shallow_copy(module: Any) -> Any:
    """A module of its own whose children, parameters and buffers are the original's."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name in PLACED:
        twin.__dict__.pop(name, None)
    return twin
