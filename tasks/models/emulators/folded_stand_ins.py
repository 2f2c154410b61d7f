"""Fold linear stand-ins into the stored weights of the blocks in front of removed ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames
from tasks.models.tensor_files import StoredTensor
from tasks.models.tensor_sources import FLOATS, ComputedTensor, read_stored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from tasks.artifacts.stand_ins import Folding


def folded_in(
    stored: Mapping[str, StoredTensor],
    stand_ins: "Mapping[int, Folding]",
    config: "PreTrainedConfig",
    num_blocks: int,
    folder: Path,
) -> dict[str, ComputedTensor]:
    """Return the weights and biases of a model folder that stand-ins change, computed when they are written.

    Raises:
        InputError: when the weight of a stand-in's linear module is not among the stored tensors.
    """
    if not stand_ins:
        return {}
    from tasks.core.blocks.factored import shapes_by_block

    names, shapes = BlockNames(stored, num_blocks, folder), shapes_by_block(config)
    changed: dict[str, ComputedTensor] = {}
    for block, (path, matrix) in stand_ins.items():
        weight, bias = names.name(block, f"{path}.weight"), names.name(block, f"{path}.bias")
        if weight not in stored or stored[weight].dtype not in FLOATS:
            raise InputError(
                f"{folder} has no {weight} in one of {list(FLOATS)}, into which the linear stand-in behind block"
                f" {block} is folded: choose another plan.share"
            )
        changed[weight] = _folded(stored[weight], matrix, shapes[block][path].is_transposed)
        if bias in stored:
            changed[bias] = _folded(stored[bias], matrix, is_transposed=True)
    return changed


def _folded(stored: StoredTensor, matrix: "Tensor", is_transposed: bool) -> ComputedTensor:
    from tasks.core.stand_ins.residual_outputs import folded

    return ComputedTensor(stored.dtype, stored.shape, lambda: folded(read_stored(stored), matrix, is_transposed))
