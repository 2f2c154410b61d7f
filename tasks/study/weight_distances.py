"""Weights: compare the matrices of the blocks with one another, and with those of a tuned model."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.study.weight_distances import WeightsSummary, write_weight_distances
from tasks.core.errors import InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.block_matrices import Role


@stage(packages=("torch", "safetensors"))
def weights(
    work: Work, model: ModelSource, *, other: ModelSource | None = None, tuned: Ref | None = None
) -> WeightsSummary:
    """Compute Frobenius norms and distances of blocks' matrices of the same name and shape, read in parts of 64 MB.

    other: a second model of the same shape, or tuned: tuned blocks (not both), for the change of each matrix. Writes
    `tasks.artifacts.study.weight_distances.WeightDistances`; a block that was not tuned has change 0. The summary lacks
    `mean_relative_distance` if no two blocks can be compared.

    Raises:
        InputError: when weights are not finite, or the second model has another shape.
    """
    from tasks.models.block_matrices import read_roles

    roles = read_roles(Path(model.path), model.num_blocks)
    names = list(dict.fromkeys(role.name for role in roles))
    tensors = _statistics(work, roles, names, model.num_blocks)
    norm = tensors["norm"]
    num_entries = sum(role.num_entries * len(role.blocks) for role in roles)
    facts: WeightsSummary = {"roles": names, "num_blocks": model.num_blocks, "num_entries": num_entries}
    if (mean := _mean_of_pairs(tensors["relative"])) is not None:
        facts["mean_relative_distance"] = mean
    if other is not None or tuned is not None:
        tensors["change"] = _changes(work, model, roles, names, other, tuned)
        size = float(norm.double().square().nansum().sqrt())
        facts["relative_change"] = float(tensors["change"].double().square().nansum().sqrt()) / size
    write_weight_distances(work.out, tensors)
    return facts


def _statistics(work: Work, roles: "list[Role]", names: list[str], num_blocks: int) -> "dict[str, Tensor]":
    """Compute `norm`, `variance` [R, N], `distance` and `relative` [R, N, N]."""
    import torch

    from tasks.core.study.block_weights import BlockMatrices, relative_distance

    shape = (len(names), num_blocks)
    norm, variance = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    distance = torch.full((*shape, num_blocks), torch.nan)
    for role in work.progress(roles, "matrices"):
        matrices = BlockMatrices(role.name, role.blocks)
        for part in role.parts():
            matrices.update(part)
        found, row, blocks = matrices.result(), names.index(role.name), torch.tensor(role.blocks)
        norm[row, blocks] = found.norms.float()
        variance[row, blocks] = found.variances.float()
        distance[row, blocks[:, None], blocks] = found.distances.float()
    return {"norm": norm, "variance": variance, "distance": distance, "relative": relative_distance(distance, norm)}


def _mean_of_pairs(distance: "Tensor") -> float | None:
    """Return the mean over roles and pairs of different blocks that can be compared; None if there are none."""
    import torch

    rows, columns = torch.triu_indices(distance.shape[-1], distance.shape[-1], 1)
    values = distance[:, rows, columns]
    return float(values.nanmean()) if values.isfinite().any() else None


def _changes(
    work: Work, model: ModelSource, roles: "list[Role]", names: list[str], other: ModelSource | None, tuned: Ref | None
) -> "Tensor":
    """Compute how far each matrix moved, [R, N]."""
    import torch

    from tasks.models.block_matrices import model_tensors, squared_change, tuned_tensors

    if other is not None and tuned is not None:
        raise InputError("compare the weights with either another model or tuned blocks, not with both")
    if other is not None and other.num_blocks != model.num_blocks:
        raise InputError(f"{model.name} has {model.num_blocks} blocks, {other.name} has {other.num_blocks}")
    if other is not None:
        after = model_tensors(Path(other.path), other.num_blocks)
    else:
        assert tuned is not None
        after = tuned_tensors(work.open(tuned))
    change, num_matched = torch.full((len(names), model.num_blocks), torch.nan), 0
    for role in roles:
        for block, before in zip(role.blocks, role.tensors, strict=True):
            found, what = after.get((block, role.name)), f"{role.name} of block {block}"
            if found is None and other is not None:
                raise InputError(f"{other.name} has no {what}: it is not a model of the same family")
            num_matched += found is not None
            change[names.index(role.name), block] = squared_change(before, found, what) ** 0.5 if found else 0.0
    if not num_matched:
        raise InputError(
            f"none of the {len(after)} tuned tensors is a whole matrix of this model: give blocks that were tuned as"
            " wholes, not adapters or LoRA, of this model"
        )
    return change
