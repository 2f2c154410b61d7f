"""Shapes of a block's linear modules, and modules of other shapes than the config says: in two factors, or narrower."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from tasks.core.blocks.locate_blocks import get_blocks, skeleton
from tasks.core.compression.settings import Compression, rank_within
from tasks.core.errors import SettingError

# The names of the two factors: `weight` is the outer one. Its shape always differs from that of the dense weight (the
# rank is smaller than either side), so that loading it as a dense weight is an error and never gives random numbers.
OUTER, INNER = "weight", "weight_inner"


class FactoredLinear(nn.Module):
    """Linear module y = weight (weight_inner x) + bias, with weight [out, rank] and weight_inner [rank, in]."""

    def __init__(self, outer: Tensor, inner: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(outer)
        self.weight_inner = nn.Parameter(inner)
        self.bias = nn.Parameter(bias) if bias is not None else None
        self.out_features, self.in_features, self.rank = outer.shape[0], inner.shape[1], inner.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply the module: [..., in] -> [..., out]."""
        return nn.functional.linear(nn.functional.linear(hidden, self.weight_inner), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the module in a printed model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


@dataclass(frozen=True)
class LinearShape:
    """Dimensions of a linear module's weight, and whether it is stored as [in, out] (GPT-2's Conv1D)."""

    num_in: int
    num_out: int
    is_transposed: bool


def linear_shapes(block: nn.Module) -> dict[str, LinearShape]:
    """Map the path of each linear module in the block to its shape.

    Only `nn.Linear` and `Conv1D` themselves count; a subclass may compute more.
    """
    found = {}
    for path, module in block.named_modules():
        if type(module) is nn.Linear:
            found[path] = LinearShape(module.in_features, module.out_features, False)
        elif type(module) is Conv1D:
            num_in, num_out = module.weight.shape
            found[path] = LinearShape(num_in, num_out, True)
    return found


def shapes_by_block(config: PreTrainedConfig) -> list[dict[str, LinearShape]]:
    """Return `linear_shapes` of every block of the model that a config describes, built on the meta device."""
    return [linear_shapes(block) for block in get_blocks(skeleton(config))]


def require_rank(by_block: Sequence[Mapping[str, LinearShape]], how: Compression) -> None:
    """Check the rank of a low-rank compression against the weights that it factorises, by block.

    Raises:
        SettingError: when the rank is 0 for some weight, or larger than the full rank of every weight.
    """
    shapes = {(shape.num_in, shape.num_out) for block in by_block for shape in block.values()}
    assert how.rank is not None
    for num_in, num_out in sorted(shapes):
        rank_within(how.rank, num_in, num_out)
    largest = max((min(sides) for sides in shapes), default=0)
    if how.rank > largest:
        raise SettingError(f"`rank` = {how.rank}: no weight of a block has a rank above {largest}")


def put_factors(block: nn.Module, path: str, outer: Tensor, inner: Tensor) -> None:
    """Replace the linear module at `path` by one with these factors; its bias and data type stay the same."""
    parent, _, name = path.rpartition(".")
    dense: Any = block.get_submodule(path)
    with torch.no_grad():
        bias = getattr(dense, "bias", None)
        like = dense.weight
        module = FactoredLinear(outer.to(like), inner.to(like), None if bias is None else bias.detach())
    module.requires_grad_(like.requires_grad)
    setattr(block.get_submodule(parent), name, module.train(dense.training))


def put_narrow(block: nn.Module, path: str, weight: Tensor, bias: Tensor | None) -> None:
    """Replace the linear module at `path` by a narrower one; its data type stays the same.

    weight: as the module stores it, [out, in], or [in, out] for a `Conv1D`.
    """
    parent, _, name = path.rpartition(".")
    dense: Any = block.get_submodule(path)
    rows, columns = weight.shape
    with torch.device("meta"):
        module = Conv1D(columns, rows) if type(dense) is Conv1D else nn.Linear(columns, rows, bias=bias is not None)
    like = dense.weight
    module.weight = nn.Parameter(weight.to(like), requires_grad=like.requires_grad)
    if bias is not None:
        module.bias = nn.Parameter(bias.to(like), requires_grad=like.requires_grad)
    setattr(block.get_submodule(parent), name, module.train(dense.training))
