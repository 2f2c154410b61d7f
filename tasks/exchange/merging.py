"""Merge the tuned blocks of several data owners into one set, a few rows of one tensor at a time.

Memory holds the headers of all files, the factors of one matrix (of low-rank tunings), and the same rows of one tensor
of all tunings; of whole blocks, neither how large they are nor how many tensors they have matters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tasks.artifacts.files import require_file
from tasks.artifacts.plan import read_plan, write_plan
from tasks.artifacts.tuning import TUNED_FILE, VARIANT_FILE
from tasks.core.errors import InputError
from tasks.core.merging.method import Merging
from tasks.core.plan.layout import Plan
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.exchange.plugging import require_stored
from tasks.models.folder import load_config
from tasks.models.source import ModelSource
from tasks.models.tensor_files import StoredTensor, TensorSource, read_header, write_tensor_file
from tasks.models.tensor_sources import MemoryTensor, read_entries, read_stored
from tasks.store.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

# Of the differences of all tunings in float64; merging them takes a few times as much.
PART_BYTES = 2 << 20
FLOAT64_BYTES = 8
MERGED = ("blocks", "lora", "bitfit")

# Merges differences [n, rows, columns] into [rows, columns]; all in float64.
Merge = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Place:
    """A tensor of a tuned block. name: `"{block}.{name}"`; original: the full model's; transposed: of a matrix that is
    stored as [inputs, outputs], as GPT-2's are.
    """

    name: str
    original: StoredTensor
    transposed: bool

    @property
    def num_columns(self) -> int:
        """The length of a row: of the last dimension."""
        return self.original.shape[-1] if self.original.shape else 1

    @property
    def num_rows(self) -> int:
        """The number of rows, over all other dimensions."""
        return prod(self.original.shape[:-1])

    def steps(self, num_tunings: int) -> Iterator[tuple[int, int]]:
        """Yield first and last row (not included) of parts that are small enough for so many tunings."""
        step = max(1, PART_BYTES // (FLOAT64_BYTES * num_tunings * self.num_columns))
        for begin in range(0, self.num_rows, step):
            yield begin, min(begin + step, self.num_rows)

    def rows(self, stored: StoredTensor, begin: int, end: int) -> "Tensor":
        """Return rows of a stored tensor of this shape, [rows, columns] in float64."""
        columns = self.num_columns
        return read_entries(stored, begin * columns, end * columns).double().reshape(end - begin, columns)


class Tuning:
    """Changes of the full model's tensors by the tuning in a folder.

    Raises:
        InputError: when it is of a method whose result is not a change of the model's own tensors.
    """

    def __init__(self, folder: Path, places: Sequence[Place]) -> None:
        self.method = _method(folder)
        self._stored = read_header(require_file(folder, TUNED_FILE, "tuning"))
        self._places = places
        self._factors: tuple[str, Tensor, Tensor] | None = None

    def change(self, place: Place, original: "Tensor", begin: int, end: int) -> "Tensor":
        """Return rows of the change, in float64; zeros for a tensor that was not trained.

        original: these rows of the full model's tensor, [rows, columns].
        """
        if place.name in self._stored:
            return place.rows(self._stored[place.name], begin, end) - original
        if f"{place.name.removesuffix('.weight')}.lora_A" not in self._stored:
            return original.new_zeros(original.shape)
        down, up = self._read_factors(place)
        scale = self.method.lora_alpha / self.method.lora_rank
        return scale * (down[:, begin:end].T @ up.T if place.transposed else up[begin:end] @ down)

    def changes(self) -> "Iterator[Tensor]":
        """Yield the changes of all tensors, in vectors."""
        for place in self._places:
            for begin, end in place.steps(1):
                yield self.change(place, place.rows(place.original, begin, end), begin, end).flatten()

    @cached_property
    def norm(self) -> float:
        """The norm of all changes."""
        return sum(float(part.square().sum()) for part in self.changes()) ** 0.5

    def _read_factors(self, place: Place) -> "tuple[Tensor, Tensor]":
        """Return the factors of a matrix; they are kept until those of another one are asked for."""
        module = place.name.removesuffix(".weight")
        if self._factors is None or self._factors[0] != module:
            down, up = (read_stored(self._stored[f"{module}.{name}"]).double() for name in ("lora_A", "lora_B"))
            self._factors = module, down, up
        return self._factors[1:]


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of a tuned block after the merge, in float32, which is computed when it is written."""

    place: Place
    tunings: Sequence[Tuning]
    merge: Merge

    dtype = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.original.shape

    @property
    def num_bytes(self) -> int:
        return 4 * prod(self.shape)

    def write_to(self, target: BinaryIO) -> None:
        import torch

        for begin, end in self.place.steps(len(self.tunings)):
            original = self.place.rows(self.place.original, begin, end)
            changes = torch.stack([tuning.change(self.place, original, begin, end) for tuning in self.tunings])
            MemoryTensor((original + self.merge(changes)).float()).write_to(target)


def write_merged(model: ModelSource, folders: Sequence[Path], merging: Merging, out: Path) -> None:
    """Write a tuning's folder with the merge of several tunings into the empty folder `out`: whole blocks in float32.

    folders: of tunings of the same plan. Those that trained factors or biases count with the change of the model's own
    tensors that these make; a tensor that a tuning did not train did not change.

    Raises:
        InputError: when the tunings are of several plans, or one trained adapters, a prompt or the head.
        SettingError: as `Merging.require_fits`.
    """
    merging.require_fits(len(folders))
    plans = [read_plan(folder, "tuning") for folder in folders]
    if any(plan.tuned != plans[0].tuned or plan.num_blocks != plans[0].num_blocks for plan in plans):
        raise InputError("tunings of several plans cannot be merged: their tuned blocks differ")
    places = find_places(model, plans[0], folders)
    tunings = [Tuning(folder, places) for folder in folders]
    merge = _merge(merging, tunings, sum(prod(place.original.shape) for place in places))
    tensors: list[tuple[str, TensorSource]] = [(place.name, MergedTensor(place, tunings, merge)) for place in places]
    write_tensor_file(tensors, out / TUNED_FILE)
    write_text(out / VARIANT_FILE, WHOLE_BLOCKS.to_json())
    write_plan(out, plans[0])


def find_places(model: ModelSource, plan: Plan, folders: Sequence[Path]) -> list[Place]:
    """Find the tensors of a plan's tuned blocks in the full model's files.

    folders: of the tunings. Where one of them has every block whole, its names are these, and no network is built.

    Raises:
        InputError: as `find_replaced`.
    """
    methods = [_method(folder) for folder in folders]
    transposed: set[str] = set()
    if all(method.method == "blocks" for method in methods) and methods[0].returned_sources(plan) == sorted(plan.tuned):
        names = list(read_header(require_file(folders[0], TUNED_FILE, "tuning")))
    else:
        names, transposed = _names_of_network(model, plan)
    return [
        Place(name, stored, name in transposed) for name, (_, stored) in sorted(require_stored(model, names).items())
    ]


def _names_of_network(model: ModelSource, plan: Plan) -> tuple[list[str], set[str]]:
    """Return the parameters of the tuned blocks, and those that are matrices [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    from tasks.core.blocks.locate_blocks import get_blocks, skeleton
    from tasks.core.tuning.lora import linear_modules
    from tasks.core.tuning.parts import returned_shapes

    network = skeleton(load_config(Path(model.path)))
    blocks = get_blocks(network)
    transposed = {
        f"{index}.{name}.weight"
        for index in plan.tuned
        for name, module in linear_modules(blocks[index]).items()
        if isinstance(module, Conv1D)
    }
    return list(returned_shapes(network, plan, WHOLE_BLOCKS)), transposed


def _merge(merging: Merging, tunings: Sequence[Tuning], num_parameters: int) -> Merge:
    """Return the function that merges differences. num_parameters: of all tensors together."""
    import torch

    from tasks.core.merging import merges
    from tasks.core.merging.magnitudes import kth_largest_magnitude

    count = len(tunings)
    if merging.method == "mean":
        weights = torch.tensor(merging.weights or [1.0] * count, dtype=torch.float64)
        return lambda changes: _by_column(changes, lambda flat: merges.weighted_mean(flat, weights))
    if merging.method != "ties":
        trimmed = merging.num_trimmed(count)
        return lambda changes: _by_column(changes, lambda flat: merges.trimmed_mean(flat, trimmed))
    # Of the whole tuning, not of each tensor, as in the paper.
    num_kept = max(1, round((1 - merging.left_out) * num_parameters))
    thresholds = torch.tensor([kth_largest_magnitude(tuning.changes, num_kept) for tuning in tunings])
    factors = merges.clipping_factors(torch.tensor([tuning.norm for tuning in tunings], dtype=torch.float64))

    def ties(flat: "Tensor") -> "Tensor":
        return merges.mean_of_elected(factors[:, None] * merges.trim_small(flat, thresholds))

    return lambda changes: _by_column(changes, ties)


def _by_column(changes: "Tensor", merge: Merge) -> "Tensor":
    """Merge [n, rows, columns] as [n, rows * columns]."""
    return merge(changes.flatten(1)).reshape(changes.shape[1:])


def _method(folder: Path) -> TuningMethod:
    variant = folder / VARIANT_FILE
    found = TuningMethod.from_json(variant.read_text()) if variant.exists() else WHOLE_BLOCKS
    if found.method not in MERGED or found.lm_head:
        what = "a head" if found.lm_head else f"what tune.method = {found.method!r} trains"
        raise InputError(f"{what} cannot be merged: only changes of whole blocks, LoRA's factors and biases can")
    return found
