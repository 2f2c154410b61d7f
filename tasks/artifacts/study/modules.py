"""The modules in the stack of blocks, `structure.safetensors`: the artifact of `structure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class Structure(TypedDict):
    """Results for N blocks, B bootstraps and M numbers of rows; CKA without unit.

    module: number of each block's run in the best cut into two or more, even if chance does as well; gains: modularity
    of the best cut into 1, 2, ... N runs; from together to counts as `tasks.core.study.bootstrap.Spread`; *_by_size:
    means over subsets of num_samples rows, of which the last is all rows.
    """

    similarity: Annotated["np.ndarray", "float32 [N, N]"]
    module: Annotated["np.ndarray", "int64 [N]"]
    gains: Annotated["np.ndarray", "float32 [N]"]
    adjacent: Annotated["np.ndarray", "float32 [N-1]"]
    adjacent_deviation: Annotated["np.ndarray", "float32 [N-1]"]
    together: Annotated["np.ndarray", "float32 [N, N]"]
    boundaries: Annotated["np.ndarray", "float32 [N-1]"]
    scores: Annotated["np.ndarray", "float32 [B]"]
    counts: Annotated["np.ndarray", "int64 [B]"]
    num_samples: Annotated["np.ndarray", "int64 [M]"]
    adjacent_by_size: Annotated["np.ndarray", "float32 [M, N-1]"]
    adjacent_deviation_by_size: Annotated["np.ndarray", "float32 [M, N-1]"]
    score_by_size: Annotated["np.ndarray", "float32 [M]"]
    agreement_by_size: Annotated["np.ndarray", "float32 [M]"]


STRUCTURE_FILE = TensorFile("structure.safetensors", "structure of modules", Structure)


class StructureFacts(TypedDict):
    """Facts about the best cut, into num_runs runs; only num_modules is 1 if chance does as well."""

    modularity: float
    modularity_deviation: float
    modularity_by_chance: float
    p_value: float
    num_modules: int
    num_runs: int
    stability: float
    same_number: float


class StructureSummary(StructureFacts):
    """Summary of `structure`."""

    estimator: str
    num_blocks: int
    num_rows: int
    num_bootstraps: int


def write_structure(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `Structure`."""
    STRUCTURE_FILE.write(folder, tensors)


def read_structure(folder: Path) -> Structure:
    """Read the results.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(Structure, STRUCTURE_FILE.read(folder))


def structure_summary(result: HasSummary) -> StructureSummary:
    """Return the summary of a result of `structure`."""
    return cast(StructureSummary, result.summary)
