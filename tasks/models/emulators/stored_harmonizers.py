"""Harmonizers in an emulator folder: tensors beside the blocks, in the blocks' number format.

The harmonizer of the removed block 3 is stored as `harmonizer_3.down` [r, d] and `harmonizer_3.up` [d, r]. Whatever
writes an emulator anew copies them with the other tensors outside the blocks. Plain `from_pretrained` leaves them out.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.models.block_names import BlockNames
from tasks.models.tensor_files import StoredTensor, stored_tensors
from tasks.models.tensor_sources import DTYPES, FLOATS, ComputedTensor, read_stored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from tasks.artifacts.harmonizers import Weights

# No part of the name is a number, so that a folder's numbered lists of tensors are its blocks alone.
NAME = re.compile(r"harmonizer_(\d+)\.(down|up)")


def harmonizer_tensors(
    harmonizers: "Mapping[int, Weights]", stored: Mapping[str, StoredTensor], num_blocks: int, folder: Path
) -> list[tuple[str, ComputedTensor]]:
    """Return the tensors of harmonizers to write beside the blocks of a model folder.

    harmonizers: by the removed block; stored: the tensors of the folder, whose first matrix inside a block decides the
    number format.
    """
    names = BlockNames(stored, num_blocks, folder)
    matrices = (tensor for name, tensor in stored.items() if names.place(name) and len(tensor.shape) > 1)
    dtype = next((tensor.dtype for tensor in matrices if tensor.dtype in FLOATS), "F32")
    return [
        (f"harmonizer_{block}.{part}", _narrowed(tensor, dtype))
        for block, weights in sorted(harmonizers.items())
        for part, tensor in weights._asdict().items()
    ]


def add_stored_harmonizers(emulator: "PreTrainedModel", plan: Plan, folder: Path) -> None:
    """Run the harmonizers that are stored in an emulator folder in the emulator, in place.

    Raises:
        InputError: when a part of one is missing, or it is that of a kept block.
    """
    stored = stored_tensors(folder)
    found = {(int(match[1]), match[2]): stored[name] for name in stored if (match := NAME.fullmatch(name))}
    if not found:
        return
    from tasks.core.harmonizers.harmonizer import Harmonizer, add_harmonizers

    blocks = {block for block, _ in found}
    wrong = [block for block in blocks if block in plan.kept or {(block, "down"), (block, "up")} - found.keys()]
    if wrong:
        raise InputError(
            f"{folder}: the harmonizer of block {min(wrong)} does not fit the plan: make the emulator again"
        )
    read = {place: read_stored(tensor) for place, tensor in found.items()}
    add_harmonizers(emulator, plan, {block: Harmonizer(read[block, "down"], read[block, "up"]) for block in blocks})


def refuse_harmonizers(names: Iterable[str], folder: Path) -> None:
    """Refuse to write an emulator as a plain model folder, whose config has no place for harmonizers.

    Raises:
        InputError: when the folder has some.
    """
    if any(NAME.fullmatch(name) for name in names):
        raise InputError(
            f"{folder} has harmonizers, which a plain Hugging Face folder cannot hold: load it with load_emulator, or"
            ' make the emulator with another plan.share than "harmonizers"'
        )


def _narrowed(tensor: "Tensor", dtype: str) -> ComputedTensor:
    import torch

    narrow = getattr(torch, next(ours for ours, theirs in DTYPES.items() if theirs == dtype))
    return ComputedTensor(dtype, tuple(tensor.shape), lambda: tensor.to(narrow))
