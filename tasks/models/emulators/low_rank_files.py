"""Weights stored as two factors: load them into modules that run them as factors, or multiply them for plain loading.

A weight `x.weight` [out, in] in two factors is stored as `x.weight` [out, rank] and `x.weight_inner` [rank, in], for
GPT-2's transposed modules too. The rank is smaller than both sides, so `from_pretrained` refuses such a folder because
of the shape of `x.weight`; it never runs with randomly initialised weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames
from tasks.models.folder import load_folder, read_model
from tasks.models.tensor_files import StoredTensor, TensorSource, stored_tensors
from tasks.models.tensor_sources import ComputedTensor, read_stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# Suffixes of a module's two factors after its path: as in tasks.core.blocks.factored, which needs torch.
OUTER, INNER = ".weight", ".weight_inner"


def load_with_factors(
    folder: Path, num_blocks: int, *, dtype: "torch.dtype | str" = "auto", device: str = "cpu"
) -> "PreTrainedModel":
    """Load the short model of an emulator folder, each weight as it is stored: whole, or as two factors.

    Raises:
        InputError: when a weight is missing, or only one of its factors is there.
    """
    stored = stored_tensors(folder)
    if not any(name.endswith(INNER) for name in stored):
        return load_folder(folder, dtype=dtype, device=device)
    from tasks.core.blocks.factored import put_factors
    from tasks.core.blocks.surgery import get_blocks

    names = BlockNames(stored, num_blocks, folder)
    model: Any = _load_the_rest(folder, stored, dtype)
    blocks = get_blocks(model)
    for name in (name for name in stored if name.endswith(INNER)):
        place = names.place(name)
        assert place is not None, f"{name} is outside the blocks"
        outer, inner = read_stored(stored[name.removesuffix(INNER) + OUTER]), read_stored(stored[name])
        put_factors(blocks[place.block], place.rest.removesuffix(INNER), outer, inner)
    return model.to(device)


def _load_the_rest(folder: Path, stored: dict[str, StoredTensor], dtype: "torch.dtype | str") -> "PreTrainedModel":
    """Load the model with random numbers in place of factors, which are read afterwards."""
    model, report = read_model(folder, dtype=dtype, ignore_mismatched_sizes=True)
    factored = {name.removesuffix(INNER) for name in stored if name.endswith(INNER)}
    if halves := sorted(path for path in factored if path + OUTER not in stored):
        raise InputError(f"{folder}: the weights in two factors lack the outer one, first {halves[0]}{OUTER}")
    # In some families the names in the model differ from those in its files, so only their number is compared.
    wrong = [name for name, *_ in report["mismatched_keys"]]
    if missing := sorted(report["missing_keys"] - set(wrong)):
        raise InputError(f"{folder}: {len(missing)} weights of the model are not on disk, first {missing[0]}")
    if len(wrong) != len(factored):
        raise InputError(
            f"{folder}: {len(wrong)} weights have another shape than the config says, but {len(factored)} are in two"
            f" factors; first {sorted(wrong)[0] if wrong else 'none'}. Make the emulator again"
        )
    return model.eval()


def multiplied(
    tensors: Mapping[str, StoredTensor], config: "PreTrainedConfig", num_blocks: int, folder: Path
) -> dict[str, TensorSource]:
    """Return the tensors with every pair of factors replaced by their product, computed when it is written."""
    if not any(name.endswith(INNER) for name in tensors):
        return dict(tensors)
    from tasks.core.blocks.factored import shapes_by_block

    names, shapes = BlockNames(tensors, num_blocks, folder), shapes_by_block(config)
    result: dict[str, TensorSource] = {}
    for name, tensor in tensors.items():
        inner = tensors.get(name.removesuffix(OUTER) + INNER) if name.endswith(OUTER) else None
        if inner is not None:
            place = names.place(name)
            assert place is not None, f"{name} is outside the blocks"
            result[name] = _product(tensor, inner, shapes[place.block][place.rest.removesuffix(OUTER)].is_transposed)
        elif not name.endswith(INNER):
            result[name] = tensor
    return result


def _product(outer: StoredTensor, inner: StoredTensor, is_transposed: bool) -> ComputedTensor:
    from tasks.core.compression.methods import product

    def compute() -> "torch.Tensor":
        dense = product(read_stored(outer), read_stored(inner))
        return dense.T.contiguous() if is_transposed else dense

    shape = (outer.shape[0], inner.shape[1])
    return ComputedTensor(outer.dtype, shape[::-1] if is_transposed else shape, compute)
