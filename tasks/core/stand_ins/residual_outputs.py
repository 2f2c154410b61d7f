"""The linear module of each block whose output the block adds to its state last, and maps that are folded into it.

In most families that is the down-projection of the feed-forward part. Where a norm stands between (Gemma 2 and 3,
OLMo 2), or experts add up, no single linear module has that output.
Shapes: T tokens, d width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core.blocks.devices import input_device
from tasks.core.blocks.factored import linear_shapes
from tasks.core.blocks.locate_blocks import find_blocks, get_blocks, text_config
from tasks.core.blocks.partial_passes import capture_blocks
from tasks.core.errors import InputError

PROBE_TOKENS = 4
# Of what is added: rounding of the state in 16 bits.
TOLERANCE = 0.02


@torch.inference_mode()
def residual_outputs(model: Any) -> list[str]:
    """Return the path within each block of the linear module whose output enters the block's output unchanged.

    Found by adding a vector to the last linear output of width d: the block's output has to change by that vector.

    Raises:
        InputError: names the block and the family where there is none.
    """
    config = text_config(model.config)
    ids = torch.arange(1, PROBE_TOKENS + 1, device=input_device(model))[None]
    with capture_blocks(model) as run:
        plain = run(ids)
    paths = []
    for index, block in enumerate(get_blocks(model)):
        path = _last_linear(model, block, index, ids, config.hidden_size)
        added = torch.randn(PROBE_TOKENS, config.hidden_size, generator=torch.Generator().manual_seed(index))
        added = added.to(plain[0]) * plain[index + 1].abs().max()
        if path is None or not _is_added(model, block.get_submodule(path), index, ids, plain[index + 1], added):
            name = f"{find_blocks(model)[0]}.{index}"
            raise InputError(
                f"{config.model_type}: {name} adds no output of a linear module to its state unchanged, so that no"
                ' linear map can stand in behind it: choose another plan.share than "linear"'
            )
        paths.append(path)
    return paths


@torch.no_grad()
def fold(block: nn.Module, path: str, matrix: Tensor) -> None:
    """Multiply the output of the linear module at `path`, as rows, by `matrix` [d, d] (float32), in place.

    The new weights have the data type of the old ones and are computed in float32.
    """
    module: Any = block.get_submodule(path)
    outwards = isinstance(module, Conv1D)
    for name, parameter in list(module.named_parameters()):
        changed = folded(parameter.data, matrix, outwards or name == "bias")
        setattr(module, name, nn.Parameter(changed, requires_grad=parameter.requires_grad))


def folded(tensor: Tensor, matrix: Tensor, is_transposed: bool) -> Tensor:
    """Return a weight or a bias [d] of a linear module whose output, as rows, is multiplied by `matrix` [d, d].

    is_transposed: whether the weight is [in, d], as in a `Conv1D`, or a bias; else it is [d, in].
    """
    matrix = matrix.to(tensor.device)
    wide = tensor.float()
    return (wide @ matrix if is_transposed else matrix.T @ wide).to(tensor)


def _last_linear(model: nn.Module, block: nn.Module, index: int, ids: Tensor, width: int) -> str | None:
    """Return the path of the linear module with outputs of this width that runs last in a block."""
    seen: list[str] = []
    shapes = linear_shapes(block)
    wide = [path for path, shape in shapes.items() if shape.num_out == width]
    handles = [
        block.get_submodule(path).register_forward_hook(lambda *_, path=path: seen.append(path)) for path in wide
    ]
    try:
        with capture_blocks(model, last=index) as run:
            run(ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1] if seen else None


def _is_added(model: nn.Module, module: nn.Module, index: int, ids: Tensor, plain: Tensor, added: Tensor) -> bool:
    """Whether the block's output [1, T, d] changes by what is added to the module's."""
    handle = module.register_forward_hook(lambda _, args, output: output + added.to(output).view_as(output))
    try:
        with capture_blocks(model, last=index) as run:
            changed = run(ids)[-1]
    finally:
        handle.remove()
    # The blocks of a model that is spread over GPUs are on several of them.
    error = (changed - plain.to(changed) - added.to(changed)).float().norm() / added.float().norm()
    return bool(error <= TOLERANCE)
