"""Interpolation between models: move weights along one or two directions, in place, only where the models differ.

Raw axes run from one model to another: theta = theta_0 + sum_k c_k (theta_k - theta_0). Filter-normalised axes have the
same direction in every filter, with the length of the origin's filter (Li et al. 2018, arXiv 1712.09913, section 4), so
that shapes along different axes can be compared. When all coordinates are 0, or one of a raw axis is 1 and the others
are 0, the weights are those of that model, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core.blocks.locate_blocks import find_blocks
from tasks.core.blocks.surgery import aliased
from tasks.core.errors import InputError

State = Mapping[str, Tensor]
Axes = Literal["raw", "filter"]
AXES = ("raw", "filter")
# Area of a parallelogram divided by that of the rectangle with its sides: below this, rounding determines the plane.
SMALLEST_AREA = 1e-4


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Map every name to its parameter; a head that is tied to the embeddings appears under both names."""
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}


def differences(model: nn.Module, other: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the parameters of `other` that differ from those of `model`. name: the name of `other` in error messages.

    Raises:
        InputError: when the architectures or sizes differ, or a value is not finite.
    """
    own, theirs = parameters_of(model), parameters_of(other)
    if odd := sorted(own.keys() ^ theirs.keys()):
        raise InputError(
            f"point {name!r} is another kind of model: {len(odd)} parameters are in it or in the initial model only,"
            f" first {odd[0]}; only models with the same parameters have models between them (adapters have none)"
        )
    for key, tensor in theirs.items():
        if tensor.shape != own[key].shape:
            raise InputError(
                f"point {name!r} has another width: {key} is {tuple(tensor.shape)}, in the initial model"
                f" {tuple(own[key].shape)}; all points must be tunings of one model"
            )
    found = {key: tensor for key, tensor in theirs.items() if not _same(tensor, own[key])}
    for key, tensor in found.items():
        if not tensor.isfinite().all():
            raise InputError(f"point {name!r}: {key} has values that are not finite; tune with a lower learning rate")
    return found


class Mixture:
    """A copy of a model whose weights are set by coordinates; it shares all tensors that no axis changes.

    model: the base model, which names the parameters; origin: tensors of the origin that differ from the base; ends:
    for each axis, the differing tensors of the model at coordinate 1 (raw axes) or of the model that gives the
    direction (filter-normalised axes). Memory: one more set of the changed tensors, two for filter-normalised axes.

    Raises:
        InputError: when the kind of axes is unknown.
    """

    def __init__(self, model: nn.Module, origin: State, ends: Sequence[State], axes: Axes = "raw") -> None:
        if axes not in AXES:
            raise InputError(f"landscape axes {axes!r}: choose from {', '.join(AXES)}")
        base, self.axes = parameters_of(model), axes
        names = sorted({*origin, *(name for end in ends for name in end)})
        self._origin = {name: origin.get(name, base[name]) for name in names}
        whole = [{name: end.get(name, base[name]) for name in names} for end in ends]
        self._ends = [{name: end[name] for name in names if not _same(end[name], self._origin[name])} for end in whole]
        changed = sorted({*(name for end in self._ends for name in end), *origin})
        self.model = aliased(model)
        # A new parameter under this name only: setting a head that is tied to the embeddings does not change them.
        for name in changed:
            path, _, leaf = name.rpartition(".")
            value = nn.Parameter(self._origin[name].detach().clone(), requires_grad=False)
            setattr(self.model.get_submodule(path), leaf, value)
        self._set = dict.fromkeys(changed, tuple([0.0] * len(ends)))
        if axes == "filter":
            self._ends = [self._normalised(end) for end in self._ends]

    @property
    def changed(self) -> list[str]:
        """Names of all parameters that the mixture does not share with the original."""
        return list(self._set)

    def origin(self, name: str) -> Tensor:
        """Value of one of the changed parameters at coordinates 0."""
        return self._origin[name]

    @property
    def num_changed(self) -> int:
        """Number of parameters that an axis changes."""
        return sum(self._origin[name].numel() for name in {name for end in self._ends for name in end})

    @property
    def changed_blocks(self) -> list[int]:
        """Indices of the blocks that an axis changes."""
        found = {self._position(name) for end in self._ends for name in end}
        return sorted(found - {len(find_blocks(self.model)[1])})

    def first_block(self, axis: int) -> int:
        """Lowest block that depends on this coordinate; the number of blocks when only the head does."""
        positions = [self._position(name) for name in self._ends[axis]]
        return min(positions, default=len(find_blocks(self.model)[1]))

    @torch.no_grad()
    def set(self, coordinates: Sequence[float]) -> None:
        """Set the weights to these coordinates: sums in float32, rounded once; unaffected tensors are not written."""
        for name in self._set:
            # Ignore the coordinates of axes that do not change this tensor, so that it stays exact.
            own = tuple(c if name in end else 0.0 for c, end in zip(coordinates, self._ends, strict=True))
            if own == self._set[name]:
                continue
            self._set[name] = own
            kept = 1.0 if self.axes == "filter" else 1.0 - sum(own)
            parts = [(kept, self._origin[name])]
            parts += [(c, end[name]) for c, end in zip(own, self._ends, strict=True) if name in end]
            _weighted(self.model.get_parameter(name), [(weight, part) for weight, part in parts if weight])

    def direction(self, axis: int, name: str) -> Tensor | None:
        """Change of a parameter by one unit of this coordinate, in float64; None when it does not change."""
        if name not in self._ends[axis]:
            return None
        end = self._ends[axis][name].double()
        return end if self.axes == "filter" else end - self._origin[name].double()

    def _normalised(self, end: State) -> dict[str, Tensor]:
        result = {}
        for name, tensor in end.items():
            origin = self._origin[name].float()
            dims = self._within_filter(name, tensor.dim())
            direction = tensor.float() - origin
            length = direction.square().sum(dims, keepdim=True).sqrt()
            wanted = origin.square().sum(dims, keepdim=True).sqrt()
            # A filter that does not change has no direction.
            result[name] = direction * torch.where(length > 0, wanted / length, 0.0)
        return result

    def _within_filter(self, name: str, num_dims: int) -> list[int]:
        """Dimensions that belong to one filter, the weights of one output. A vector (bias, norm) is one filter."""
        if num_dims < 2:
            return list(range(num_dims))
        # GPT-2 stores its matrices with the outputs in columns.
        output = 1 if isinstance(self.model.get_submodule(name.rpartition(".")[0]), Conv1D) else 0
        return [dim for dim in range(num_dims) if dim != output]

    def _position(self, name: str) -> int:
        path, blocks = find_blocks(self.model)
        if name.startswith(f"{path}."):
            return int(name[len(path) + 1 :].partition(".")[0])
        stack = path.rpartition(".")[0]
        return 0 if name.startswith(f"{stack}.") else len(blocks)


@dataclass(frozen=True)
class Geometry:
    """Lengths of two directions from one origin, and the cosine of the angle between them.

    gram: [2, 2], inner products of the axes' unit steps.
    """

    lengths: tuple[float, float]
    cosine: float
    gram: Tensor


def geometry(mixture: Mixture, names: Sequence[str]) -> Geometry:
    """Geometry of a mixture with two axes. names: the names of the origin and both axes in the error message.

    Raises:
        InputError: when the axes do not span a plane.
    """
    gram = torch.zeros(2, 2, dtype=torch.float64)
    for name in mixture.changed:
        steps = [mixture.direction(axis, name) for axis in (0, 1)]
        for i, left in enumerate(steps):
            for j, right in enumerate(steps):
                if left is not None and right is not None:
                    gram[i, j] += (left * right).sum().cpu()
    first, second = gram[0, 0].sqrt().item(), gram[1, 1].sqrt().item()
    cosine = gram[0, 1].item() / (first * second) if first and second else 1.0
    if not 1 - cosine**2 > SMALLEST_AREA**2:
        raise InputError(
            f"points {', '.join(map(repr, names))} lie on one line: no plane goes through them; take another point,"
            " or draw lines only"
        )
    return Geometry((first, second), cosine, gram)


def projected(mixture: Mixture, point: State, found: Geometry, base: nn.Module) -> tuple[float, float, float]:
    """Project a model on the plane of a mixture by least squares.

    Returns (x, y, distance from the plane divided by distance from the origin). point: the tensors that differ from
    `base`, the model of which the mixture was made.
    """
    own, products = parameters_of(base), torch.zeros(2, dtype=torch.float64)
    size = 0.0
    inside_names = set(mixture.changed)
    for name in sorted(inside_names | point.keys()):
        origin = mixture.origin(name) if name in inside_names else own[name]
        moved = point.get(name, own[name]).double() - origin.double()
        size += float(moved.square().sum())
        for axis in (0, 1):
            if (step := mixture.direction(axis, name)) is not None:
                products[axis] += (step * moved).sum().cpu()
    place = torch.linalg.solve(found.gram, products)
    inside = float(place @ products)
    return float(place[0]), float(place[1]), (max(0.0, size - inside) / size) ** 0.5 if size else 0.0


def _weighted(parameter: nn.Parameter, parts: Sequence[tuple[float, Tensor]]) -> None:
    """Set parameter = sum of weight * tensor. A single part of weight 1 is copied instead of computed."""
    if len(parts) == 1 and parts[0][0] == 1.0:
        parameter.copy_(parts[0][1])
        return
    direct = parameter.dtype == torch.float32 and parameter.device == parts[0][1].device
    target = parameter.data if direct else torch.empty_like(parts[0][1], dtype=torch.float32)
    torch.mul(parts[0][1].float(), parts[0][0], out=target)
    for weight, tensor in parts[1:]:
        target.add_(tensor.to(target.device).float(), alpha=weight)
    if not direct:
        parameter.copy_(target)


def _same(left: Tensor, right: Tensor) -> bool:
    same_memory = left.data_ptr() == right.data_ptr() and left.shape == right.shape and left.device == right.device
    return same_memory or torch.equal(left.to(right.device), right)
