"""Write an emulator folder with compressed frozen blocks, tensor by tensor: memory is a few times the largest tensor.

Tuned blocks and all tensors outside the blocks are copied as bytes. A tuned block that also runs at other positions as
a frozen copy is stored once, so the copy is exact as well.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.emulator import CompressionFacts
from tasks.artifacts.files import read_object
from tasks.artifacts.plan import PLAN_FILE, read_plan
from tasks.core.compression.settings import Compression, is_worth_two, rank_within
from tasks.core.errors import InputError, in_table
from tasks.models.block_names import BlockNames
from tasks.models.emulators.low_rank_files import INNER, OUTER
from tasks.models.folder import copy_companions, load_config
from tasks.models.tensor_files import StoredTensor, TensorSource, stored_tensors, write_tensors
from tasks.models.tensor_sources import FLOATS, ComputedTensor, read_stored
from tasks.store.files import flush, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.blocks.factored import LinearShape

# Beside the plan: how the frozen blocks were compressed, for stages that train them.
COMPRESSION_FILE = "compression.json"


@dataclass
class Tally:
    """Counts and errors of the compression, collected while it is written."""

    errors: list[float] = field(default_factory=list)
    num_zeros: int = 0
    num_factored: int = 0

    def see(self, before: "Tensor", after: "Tensor") -> "Tensor":
        """Record the relative error and the zeros of a changed weight, and return the weight."""
        from tasks.core.compression.methods import relative_error

        self.errors.append(relative_error(before, after))
        self.num_zeros += int((after == 0).sum())
        return after


def write_compressed(folder: Path, how: Compression, out: Path) -> Tally:
    """Write the emulator of `folder` into the empty folder `out`, with its frozen blocks compressed.

    Raises:
        InputError: when the emulator has no frozen blocks, none of their weights suits the method, or the rank is
            invalid.
    """
    plan, stored = read_plan(folder, "emulator"), stored_tensors(folder)
    if not plan.frozen:
        raise InputError(f"compress.method = {how.method!r}: the plan tunes every kept block, none is frozen")
    names, tally = BlockNames(stored, len(plan.kept), folder), Tally()
    shapes = _linear_shapes(folder, how)
    tensors: list[tuple[str, TensorSource]] = []
    for name, tensor in stored.items():
        place = names.place(name)
        if place is None or plan.kept[place.block] in plan.tuned or not _is_weight(tensor):
            tensors.append((name, tensor))
        elif how.method == "low_rank":
            shape = shapes[place.block].get(place.rest.removesuffix(OUTER)) if place.rest.endswith(OUTER) else None
            # Identified by the original block: the seed is the same in every plan that keeps it.
            tensors += _low_rank(name, tensor, shape, how, f"{plan.kept[place.block]}.{place.rest}", tally)
        else:
            tensors.append((name, _changed(tensor, how, tally)))
    if all(isinstance(tensor, StoredTensor) for _, tensor in tensors) and how.method != "low_rank":
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
    if how.method == "low_rank":
        facts["num_factored"] = tally.num_factored
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


def _is_weight(tensor: StoredTensor) -> bool:
    return len(tensor.shape) > 1 and tensor.dtype in FLOATS and tensor.num_bytes > 0


def _linear_shapes(folder: Path, how: Compression) -> "Sequence[dict[str, LinearShape]]":
    if how.method != "low_rank":
        return ()
    from tasks.core.blocks.factored import require_rank, shapes_by_block

    config = load_config(folder)
    with in_table("compress"):
        require_rank(config, how)
    return shapes_by_block(config)


def _changed(stored: StoredTensor, how: Compression, tally: Tally) -> ComputedTensor:
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
    name: str, stored: StoredTensor, shape: "LinearShape | None", how: Compression, identity: str, tally: Tally
) -> list[tuple[str, TensorSource]]:
    """Return the weight in two factors; unchanged at full rank; as their product where that is smaller than both."""
    if shape is None:
        return [(name, stored)]
    assert how.rank is not None
    rank = rank_within(how.rank, shape.num_in, shape.num_out)
    if rank == min(shape.num_in, shape.num_out):
        return [(name, stored)]
    pair = _Pair(stored, shape.is_transposed, rank, how, identity, tally)
    if not is_worth_two(rank, shape.num_in, shape.num_out):
        return [(name, ComputedTensor(stored.dtype, stored.shape, pair.dense))]
    tally.num_factored += 1
    outer = ComputedTensor(stored.dtype, (shape.num_out, rank), pair.outer)
    inner = ComputedTensor(stored.dtype, (rank, shape.num_in), pair.inner)
    return [(name, outer), (name.removesuffix(OUTER) + INNER, inner)]


@dataclass
class _Pair:
    """Two factors of one decomposition, written one after the other."""

    stored: StoredTensor
    is_transposed: bool
    rank: int
    how: Compression
    identity: str
    tally: Tally
    kept: "Tensor | None" = None

    def outer(self) -> "Tensor":
        """Return the outer factor, [out, rank], and keep the inner one for the next call."""
        outer, self.kept = self._decompose()
        return outer

    def inner(self) -> "Tensor":
        """Return the inner factor, [rank, in]."""
        assert self.kept is not None, "the outer factor is written first"
        inner, self.kept = self.kept, None
        return inner

    def dense(self) -> "Tensor":
        """Return the product of both factors, in the orientation of the stored weight."""
        from tasks.core.compression.methods import product

        dense = product(*self._decompose())
        return dense.T.contiguous() if self.is_transposed else dense

    def _decompose(self) -> "tuple[Tensor, Tensor]":
        import torch

        from tasks.core.compression.methods import factors, product, seed_of

        weight = read_stored(self.stored)
        weight = weight.T if self.is_transposed else weight
        try:
            pair = factors(weight, self.rank, self.how.rank_choice, seed_of(self.how.seed, self.identity))
        except torch.linalg.LinAlgError as error:
            raise InputError(f"block {self.identity}: the weight cannot be decomposed ({error})") from None
        self.tally.see(weight, product(*pair))
        return pair
