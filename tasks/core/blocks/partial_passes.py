"""Partial forward passes: the output of every block without the head, and the head without the blocks."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import BaseModelOutputWithPast

from tasks.core.blocks.length_limits import forget_lengths
from tasks.core.blocks.locate_blocks import find_blocks, get_stack
from tasks.core.errors import InputError


class EndOfPassError(Exception):
    """Signal that ends a forward pass behind the last block that was asked for."""


def state_of(output: Tensor | tuple | list) -> Tensor:
    """Return the state in a block's output: the output, or its first item (a tuple in some families, a list in GPT)."""
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks at the end of the context."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(state: Tensor, real: Tensor) -> Tensor:
    """Return the states of the real tokens of a pass as rows [number of tokens, d], float32 on the CPU.

    state: of B x T tokens; real: bool [B, T].
    """
    # OPT runs its modules on all tokens of a batch in one row.
    return state.reshape(*real.shape, -1)[real.to(state.device)].float().cpu()


@contextmanager
def leaf_embeddings(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, a pass's embeddings are a leaf of autograd, which the list then holds.

    So gradients at states can be computed without that of any weight.
    """
    leaf: list[Tensor] = []

    def start(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
        leaf.append(output.detach().requires_grad_())
        # Some families scale their embeddings in place, which a leaf does not allow.
        return leaf[-1].clone()

    with hooked([model.get_input_embeddings().register_forward_hook(start)]):  # type: ignore[operator]
        yield leaf


@contextmanager
def capture_blocks(
    model: nn.Module, reduce: Callable[[int, Tensor], Any] | None = None, last: int | None = None
) -> Iterator[Callable[..., list[Any]]]:
    """Yield a function `run(input_ids, attention_mask)` that returns the list of states 0 .. last + 1.

    State 0 is the input of block 0, state i + 1 the raw output of block i (before any final norm), each [B, T, d].
    `reduce(state_index, state)`, such as pooling, is called as soon as a state is computed. Its result replaces the
    state in the list, so that at most one full state is in memory. Nothing after block `last` (default: the final one)
    runs: later blocks, norm and head cost nothing. The caller decides about gradients (`torch.inference_mode`).

    Raises:
        InputError: when the model has no block `last`.
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
            raise EndOfPassError

    def run(input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Any]:
        states.clear()
        forget_lengths(model)
        try:
            stack(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        except EndOfPassError:
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
    """Yield a list to which every pass within the context appends the input and output of each run of blocks, in order.

    runs: (first, last) block of each run, ascending and without overlap. States are [B, T, d] and part of the graph.
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
    with hooked(handles):
        yield seen


def run_through(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    runs: Sequence[tuple[int, int]],
    given: Sequence[Tensor],
) -> list[Tensor]:
    """Output of each run of blocks (first, last) with the states `given` as inputs, each [B, T, d].

    One pass of the family's code, so that masks, rotary embeddings and kinds of attention are those of these positions;
    the state before each run is replaced. Nothing after the last run is computed.
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
            raise EndOfPassError

    handles = [blocks[first].register_forward_pre_hook(replace, with_kwargs=True) for first, _ in runs]
    handles += [blocks[last].register_forward_hook(keep) for _, last in runs]
    forget_lengths(model)
    try:
        get_stack(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except EndOfPassError:
        return left
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError(f"{type(model).__name__} returned before block {runs[-1][1]} ran")


def base_model_and_head(model: nn.Module) -> tuple[Callable[..., Any], Callable[[Tensor], Tensor]]:
    """Split a model into (base, head) with `head(base(...).last_hidden_state[0])` equal to `model(...).logits[0]`.

    base: the stack; no pass depends on the passes before it (`forget_lengths`).
    head: [M, d] -> [M, vocabulary], for any selection of positions, so that logits are computed only where needed.
    The head runs the family's code, including soft caps and scales, on a shell of the model whose stack passes its
    input through. All modules and tensors are those of the model, so gradients and later changes reach them.

    Raises:
        InputError: when the model has no language-model head.
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


# Attributes that accelerate sets on a module that it has placed: its forward runs the original module, not the copy.
PLACED = ("forward", "_old_forward", "_hf_hook")


class _PassThrough(nn.Module):
    """Replacement for the stack that returns its input embeddings as last hidden states.

    All other attributes that a family's head reads come from the stack (Falcon-H1 multiplies by a number stored there).
    """

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the stack as a submodule of the head.
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
    """Output whose other attributes are None (cross attentions, router logits)."""

    def __getattr__(self, _: str) -> None:
        return None


def _shallow_copy(module: Any) -> Any:
    """Make a new module object with the children, parameters and buffers of the original."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name in PLACED:
        twin.__dict__.pop(name, None)
    return twin
