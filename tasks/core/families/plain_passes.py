"""The reference for the laws of a family: plain forward passes of the unchanged model, and the tolerance.

Shapes: B rows, T tokens, d width, N blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.partial_passes import state_of

# Rows of a batch are summed in another order than rows alone. In families that satisfy the laws, the largest difference
# is below 1e-4 of the largest value; in others it is above 1e-2.
TOLERANCE = 5e-4
NUM_NEW = 4


class BrokenLawError(Exception):
    """The result of an operation differs from that of the plain model."""


@torch.no_grad()
def logits_of(model: nn.Module, rows: Sequence[tuple[int, ...]], use_cache: bool = False) -> Tensor:
    """Logits [B, T, vocabulary] of the rows' first T tokens, where T is the length of the shortest row."""
    length = min(map(len, rows))
    ids = torch.tensor([row[:length] for row in rows])
    return model(ids, use_cache=use_cache).logits


def generated_by(model: Any, ids: Tensor, mask: Tensor, use_cache: bool) -> Tensor:
    """Generate greedy tokens, [B, NUM_NEW]."""
    options: dict[str, Any] = {"max_new_tokens": NUM_NEW, "min_new_tokens": NUM_NEW, "do_sample": False}
    return model.generate(ids, attention_mask=mask, use_cache=use_cache, **options)[:, ids.shape[1] :]


def row_loss(model: nn.Module, row: tuple[int, ...]) -> Tensor:
    """Negative log-likelihood in nats of a row's last three tokens."""
    logits = model(torch.tensor([row]), use_cache=False).logits[0, -4:-1]
    return nn.functional.cross_entropy(logits, torch.tensor(row[-3:]), reduction="sum")


@torch.no_grad()
def plain_states(model: nn.Module, row: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of all blocks, each [T, d], in a plain pass of one row."""
    entered: list[Tensor] = []
    left: list[Tensor] = []
    with ExitStack() as hooks:
        for block in get_blocks(model):
            before = block.register_forward_pre_hook(
                lambda _, args, kwargs: entered.append((args[0] if args else kwargs["hidden_states"])[0].clone()),
                with_kwargs=True,
            )
            after = block.register_forward_hook(lambda _, args, output: left.append(state_of(output)[0].clone()))
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        model(torch.tensor([row]), use_cache=False)
    return entered, left


@contextmanager
def stepping_over(model: nn.Module, removed: set[int]) -> Iterator[None]:
    """Let these blocks return their input within the context."""

    def step_over(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        state = args[0] if args else kwargs["hidden_states"]
        return type(output)([state, *output[1:]]) if isinstance(output, tuple | list) else state

    with ExitStack() as hooks:
        for index in removed:
            hook = get_blocks(model)[index].register_forward_hook(step_over, with_kwargs=True)
            hooks.callback(hook.remove)
        yield


def fingerprint(model: Any) -> tuple:
    """Collect everything that surgery could change in a model."""
    return (
        [(name, id(module)) for name, module in model.named_modules()],
        [
            (name, each.data_ptr(), each.requires_grad, each.double().sum().item())
            for name, each in model.named_parameters()
        ],
        model.config.to_json_string(use_diff=False),
    )


def require_equal_gradients(emulator: nn.Module, plain: nn.Module) -> None:
    """Compare the gradients of two models with the same parameters.

    Raises:
        BrokenLawError: when a frozen tensor has a gradient, or the gradients of the two models differ.
    """
    pairs = list(zip(emulator.named_parameters(), plain.parameters(), strict=True))
    largest = max((float(each.grad.abs().max()) for _, each in pairs if each.grad is not None), default=0.0)
    for (name, ours), theirs in pairs:
        if not ours.requires_grad and ours.grad is not None:
            raise BrokenLawError(f"{name} is frozen and has a gradient")
        if (ours.grad is None) != (theirs.grad is None):
            raise BrokenLawError(f"only one of two equal passes has a gradient of {name}")
        if ours.grad is not None and theirs.grad is not None:
            require_close(ours.grad, theirs.grad, f"the gradient of {name} depends on the other rows", largest)


def require_close(ours: Tensor, theirs: Tensor, what: str, largest: float | None = None) -> None:
    """Compare tensors within a tolerance.

    Raises:
        BrokenLawError: unless they agree to `TOLERANCE` times `largest`, by default the largest value of `theirs`.
    """
    size = float(theirs.abs().max()) if largest is None else largest
    error = float((ours - theirs).abs().max())
    if not error <= TOLERANCE * size:
        raise BrokenLawError(f"{what} (by {error / max(size, 1e-30):.1g} of the largest value)")


def require_equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Compare logits bit for bit. what: the operation between the two, for the message.

    Raises:
        BrokenLawError: when they differ.
    """
    if not torch.equal(ours, theirs):
        raise BrokenLawError(f"{what} changes the logits")
