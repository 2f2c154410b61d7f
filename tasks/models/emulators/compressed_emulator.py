"""Write an emulator folder with compressed frozen blocks, tensor by tensor: memory is a few times the largest tensor.

Tuned blocks and all tensors outside the blocks are copied as bytes. A tuned block that also runs at other positions as
a frozen copy is stored once, so the copy is exact as well.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.emulator import COMPRESSION_FILE, CompressionFacts
from tasks.artifacts.files import read_object
from tasks.artifacts.plan import PLAN_FILE, read_plan
from tasks.core.compression.settings import Compression, rank_within
from tasks.core.errors import InputError, in_table
from tasks.models.block_names import BlockNames, InBlock
from tasks.models.emulators.changed_weights import Tally, in_factors
from tasks.models.emulators.resized_weights import OUTER
from tasks.models.folder import copy_companions, load_config
from tasks.models.tensor_files import StoredTensor, TensorSource, stored_tensors, write_tensors
from tasks.models.tensor_sources import FLOATS, ComputedTensor, read_stored
from tasks.store.files import flush, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.blocks.factored import LinearShape
    from tasks.models.emulators.gradient_preserving_weights import Sensitivities

# Makes the tensors that are written in the place of one of a frozen block.
Change = Callable[[str, StoredTensor, InBlock], list[tuple[str, TensorSource]]]


def write_compressed(folder: Path, how: Compression, out: Path, seen: "Sensitivities | None" = None) -> Tally:
    """Write the emulator of `folder` into the empty folder `out`, with its frozen blocks compressed.

    seen: channels and observations, for GradOT.

    Raises:
        InputError: when the emulator has no frozen blocks, none of their weights suits the method, or the rank is
            invalid.
    """
    plan, stored = read_plan(folder, "emulator"), stored_tensors(folder)
    if not plan.frozen:
        raise InputError(f"compress.method = {how.method!r}: the plan tunes every kept block, none is frozen")
    names, tally = BlockNames(stored, len(plan.kept), folder), Tally()
    change = _changer(folder, how, tally, stored, names, plan.kept, seen)
    tensors: list[tuple[str, TensorSource]] = []
    for name, tensor in stored.items():
        place = names.place(name)
        is_frozen = place is not None and plan.kept[place.block] not in plan.tuned
        tensors += change(name, tensor, place) if place is not None and is_frozen else [(name, tensor)]
    if all(isinstance(tensor, StoredTensor) for _, tensor in tensors) and how.method in ("prune", "quantise"):
        raise InputError(f"compress.method = {how.method!r}: no weight of a frozen block has one of {list(FLOATS)}")
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, out)
    copy_the_rest(folder, out)
    write_text(out / COMPRESSION_FILE, json.dumps(how.cache_view(), sort_keys=True))
    flush(out)
    return tally


def summary(tally: Tally, how: Compression) -> CompressionFacts:
    """Return facts for the stage's summary."""
    facts: CompressionFacts = {"method": how.method, "num_compressed": len(tally.errors)}
    if tally.errors:
        facts["mean_relative_error"] = sum(tally.errors) / len(tally.errors)
    if how.method == "prune":
        facts["num_zeros"] = tally.num_zeros
    if how.method in ("low_rank", "gradot"):
        facts["num_factored"] = tally.num_factored
    if how.method == "gradot":
        facts["num_channels"] = tally.num_channels
    return facts


def read_compression(folder: Path) -> dict[str, Any] | None:
    """Return how an emulator's frozen blocks were compressed; None if they were not.

    Raises:
        InputError: when the file is not valid.
    """
    if not (folder / COMPRESSION_FILE).is_file():
        return None
    return read_object(folder, COMPRESSION_FILE, "compression", ["method"])


def copy_the_rest(folder: Path, out: Path) -> None:
    """Copy the files that belong to an emulator besides its weights: config, plan, tokenizer."""
    copy_companions(folder, out)
    for name in ("config.json", PLAN_FILE):
        shutil.copyfile(folder / name, out / name)
        flush(out / name)


def _changer(
    folder: Path,
    how: Compression,
    tally: Tally,
    stored: Mapping[str, StoredTensor],
    names: BlockNames,
    kept: Sequence[int],
    seen: "Sensitivities | None",
) -> Change:
    """Return the function that changes the tensors of frozen blocks."""
    if how.method in ("prune", "quantise"):
        return lambda name, tensor, _: [(name, _rounded(tensor, how, tally) if _is_weight(tensor) else tensor)]
    from tasks.core.blocks.factored import require_rank
    from tasks.core.blocks.feed_forward import factorised_shapes

    shapes = factorised_shapes(load_config(folder), how)
    with in_table("compress"):
        require_rank(shapes, how)
    if how.method == "gradot":
        from tasks.models.emulators.gradient_preserving_weights import GradientPreserving

        assert seen is not None, "GradOT chooses by gradients"
        return GradientPreserving(how, tally, stored, names, kept, shapes, seen)

    def low_rank(name: str, tensor: StoredTensor, place: InBlock) -> list[tuple[str, TensorSource]]:
        shape = shapes[place.block].get(place.rest.removesuffix(OUTER)) if place.rest.endswith(OUTER) else None
        if shape is None or not _is_weight(tensor):
            return [(name, tensor)]
        # Identified by the original block: the seed is the same in every plan that keeps it.
        return _low_rank(name, tensor, shape, how, f"{kept[place.block]}.{place.rest}", tally)

    return low_rank


def _is_weight(tensor: StoredTensor) -> bool:
    return len(tensor.shape) > 1 and tensor.dtype in FLOATS and tensor.num_bytes > 0


def _rounded(stored: StoredTensor, how: Compression, tally: Tally) -> ComputedTensor:
    from tasks.core.compression.methods import pruned, quantised

    def compute() -> "Tensor":
        weight = read_stored(stored)
        if how.method == "prune":
            assert how.ratio is not None
            return tally.see(weight, pruned(weight, how.ratio))
        assert how.bits is not None
        return tally.see(weight, quantised(weight, how.bits))

    return ComputedTensor(stored.dtype, stored.shape, compute)


def _low_rank(
    name: str, stored: StoredTensor, shape: "LinearShape", how: Compression, identity: str, tally: Tally
) -> list[tuple[str, TensorSource]]:
    from tasks.core.compression.methods import factors, seed_of

    assert how.rank is not None
    rank = rank_within(how.rank, shape.num_in, shape.num_out)
    decompose = partial(factors, rank=rank, choice=how.rank_choice, seed=seed_of(how.seed, identity))
    return in_factors(name, stored, shape, rank, decompose, tally)
