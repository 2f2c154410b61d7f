"""The linear stand-ins of a plan: the artifact of `stand_ins`.

`stand_ins.safetensors` has the matrices, `stand_ins.json` where they are folded in and how far off they are.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypedDict

from tasks.artifacts.files import JsonFile, TensorFile

if TYPE_CHECKING:
    from torch import Tensor


class Matrices(TypedDict):
    """T of each of R runs of removed blocks."""

    matrices: Annotated["Tensor", "float32 [R, d, d]"]


class Runs(TypedDict):
    """Lists with an entry for each run.

    fronts, lasts: the kept block in front of the run, and the run's last block; paths: of the linear module within that
    kept block; errors, errors_without: held out, with the stand-in and where the run is only removed, as shares of the
    squared norm of the last block's output.
    """

    fronts: list[int]
    lasts: list[int]
    paths: list[str]
    errors: list[float]
    errors_without: list[float]


MATRICES_FILE = TensorFile("stand_ins.safetensors", "linear stand-ins", Matrices)
RUNS_FILE = JsonFile("stand_ins.json", "runs of linear stand-ins", Runs, sort_keys=True)


class StandInsSummary(TypedDict):
    """Summary of `stand_ins`.

    error, error_without: sums over runs of the held-out errors; only_removed: runs without a stand-in, each as its
    first and its last block.
    """

    num_runs: int
    error: float
    error_without: float
    only_removed: list[list[int]]
    num_rows: int


class Folding(NamedTuple):
    """A matrix [d, d], and the path within the kept block of the linear module that it is folded into."""

    path: str
    matrix: "Tensor"


def write_stand_ins(folder: Path, runs: Runs, matrices: "Tensor") -> None:
    """Write the files of the stand-ins."""
    MATRICES_FILE.write(folder, {"matrices": matrices})
    RUNS_FILE.write(folder, runs)


def read_runs(folder: Path) -> Runs:
    """Read where the stand-ins are folded in, and how far off they are.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return RUNS_FILE.read(folder)


def read_stand_ins(folder: Path) -> dict[int, Folding]:
    """Read the stand-ins, by the kept block in front of the run.

    Raises:
        InputError: when a file is missing or not valid.
    """
    runs, matrices = read_runs(folder), MATRICES_FILE.read(folder, "torch")["matrices"]
    found = zip(runs["fronts"], runs["paths"], matrices, strict=True)
    return {front: Folding(path, matrix) for front, path, matrix in found}
