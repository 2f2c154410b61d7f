"""Linear weights stored in other shapes than the config says: load them into modules that run them as they are stored,
or make them whole for plain loading.

A weight `x.weight` [out, in] in two factors is stored as `x.weight` [out, rank] and `x.weight_inner` [rank, in], for
GPT-2's transposed modules too. A weight at a feed-forward part's channels of which some were removed is stored without
them; made whole again, it has zeros instead, at the end. `from_pretrained` refuses such folders because of the shapes;
it never runs with randomly initialised weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.emulator import COMPRESSION_FILE
from tasks.core.errors import InputError
from tasks.models.block_names import BlockNames
from tasks.models.folder import load_config, load_folder, read_model
from tasks.models.tensor_files import StoredTensor, TensorSource, stored_tensors
from tasks.models.tensor_sources import ComputedTensor, read_stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from tasks.core.blocks.factored import LinearShape

# Suffixes of a module's two factors after its path: as in tasks.core.blocks.factored, which needs torch.
OUTER, INNER = ".weight", ".weight_inner"


def load_as_stored(
    folder: Path, num_blocks: int, *, dtype: "torch.dtype | str" = "auto", device: str = "cpu"
) -> "PreTrainedModel":
    """Load the short model of an emulator folder, each weight as it is stored: whole, narrow, or as two factors.

    Raises:
        InputError: when a weight is missing, or only one of its factors is there.
    """
    stored = stored_tensors(folder)
    if not any(name.endswith(INNER) for name in stored) and not (folder / COMPRESSION_FILE).is_file():
        return load_folder(folder, dtype=dtype, device=device)
    from tasks.core.blocks.factored import put_factors, put_narrow, shapes_by_block
    from tasks.core.blocks.surgery import get_blocks

    names = BlockNames(stored, num_blocks, folder)
    narrow = _narrow(stored, names, shapes_by_block(load_config(folder)))
    if not any(name.endswith(INNER) for name in stored) and not narrow:
        return load_folder(folder, dtype=dtype, device=device)
    model: Any = _load_the_rest(folder, stored, len(narrow), dtype)
    blocks = get_blocks(model)
    for name in (name for name in stored if name.endswith(INNER)):
        place = names.place(name)
        assert place is not None, f"{name} is outside the blocks"
        outer, inner = read_stored(stored[name.removesuffix(INNER) + OUTER]), read_stored(stored[name])
        put_factors(blocks[place.block], place.rest.removesuffix(INNER), outer, inner)
    for name in (name for name in narrow if name.endswith(".weight")):
        place = names.place(name)
        assert place is not None, "only blocks have narrow weights"
        bias = stored.get(name.removesuffix(".weight") + ".bias")
        path = place.rest.removesuffix(".weight")
        put_narrow(blocks[place.block], path, read_stored(stored[name]), read_stored(bias) if bias else None)
    return model.to(device)


def _load_the_rest(
    folder: Path, stored: Mapping[str, StoredTensor], num_narrow: int, dtype: "torch.dtype | str"
) -> "PreTrainedModel":
    """Load the model with random numbers in place of factors and narrow weights, which are read afterwards."""
    model, report = read_model(folder, dtype=dtype, ignore_mismatched_sizes=True)
    factored = {name.removesuffix(INNER) for name in stored if name.endswith(INNER)}
    if halves := sorted(path for path in factored if path + OUTER not in stored):
        raise InputError(f"{folder}: the weights in two factors lack the outer one, first {halves[0]}{OUTER}")
    # In some families the names in the model differ from those in its files, so only their number is compared.
    wrong = [name for name, *_ in report["mismatched_keys"]]
    if missing := sorted(report["missing_keys"] - set(wrong)):
        raise InputError(f"{folder}: {len(missing)} weights of the model are not on disk, first {missing[0]}")
    if len(wrong) != len(factored) + num_narrow:
        raise InputError(
            f"{folder}: {len(wrong)} weights have another shape than the config says, but {len(factored)} are in two"
            f" factors and {num_narrow} have fewer channels; first {sorted(wrong)[0] if wrong else 'none'}. Make the"
            " emulator again"
        )
    return model.eval()


def made_whole(
    tensors: Mapping[str, StoredTensor], config: "PreTrainedConfig", num_blocks: int, folder: Path
) -> dict[str, TensorSource]:
    """Return the tensors in the shapes of the config, computed when they are written.

    Two factors become their product, and removed channels zeros behind the others.
    """
    if not any(name.endswith(INNER) for name in tensors) and not (folder / COMPRESSION_FILE).is_file():
        return dict(tensors)
    from tasks.core.blocks.factored import shapes_by_block

    names, shapes = BlockNames(tensors, num_blocks, folder), shapes_by_block(config)
    narrow = _narrow(tensors, names, shapes)
    result: dict[str, TensorSource] = {}
    for name, tensor in tensors.items():
        inner = tensors.get(name.removesuffix(OUTER) + INNER) if name.endswith(OUTER) else None
        if inner is not None:
            place = names.place(name)
            assert place is not None, f"{name} is outside the blocks"
            result[name] = _product(tensor, inner, shapes[place.block][place.rest.removesuffix(OUTER)].is_transposed)
        elif name in narrow:
            result[name] = _widened(tensor, narrow[name])
        elif not name.endswith(INNER):
            result[name] = tensor
    return result


def _narrow(
    stored: Mapping[str, StoredTensor], names: BlockNames, shapes: "Sequence[Mapping[str, LinearShape]]"
) -> dict[str, tuple[int, ...]]:
    """Return the weights and biases of linear modules with fewer channels, and the shapes that the config says."""
    found = {}
    for name, tensor in stored.items():
        place = names.place(name)
        path, _, kind = place.rest.rpartition(".") if place else ("", "", "")
        shape = shapes[place.block].get(path) if place else None
        if shape is None or kind not in ("weight", "bias") or f"{name.removesuffix(OUTER)}{INNER}" in stored:
            continue
        expected = _stored_shape(shape, kind)
        if tensor.shape != expected and len(tensor.shape) == len(expected):
            found[name] = expected
    return found


def _stored_shape(shape: "LinearShape", kind: str) -> tuple[int, ...]:
    if kind == "bias":
        return (shape.num_out,)
    return (shape.num_in, shape.num_out) if shape.is_transposed else (shape.num_out, shape.num_in)


def _widened(stored: StoredTensor, shape: tuple[int, ...]) -> ComputedTensor:
    def compute() -> "torch.Tensor":
        kept = read_stored(stored)
        whole = kept.new_zeros(shape)
        whole[tuple(slice(size) for size in kept.shape)] = kept
        return whole

    return ComputedTensor(stored.dtype, shape, compute)


def _product(outer: StoredTensor, inner: StoredTensor, is_transposed: bool) -> ComputedTensor:
    from tasks.core.compression.methods import product

    def compute() -> "torch.Tensor":
        dense = product(read_stored(outer), read_stored(inner))
        return dense.T.contiguous() if is_transposed else dense

    shape = (outer.shape[0], inner.shape[1])
    return ComputedTensor(outer.dtype, shape[::-1] if is_transposed else shape, compute)
