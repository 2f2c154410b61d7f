"""Norms and distances of blocks' matrices, `weights.safetensors`: the artifact of `weights`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class WeightDistances(TypedDict):
    """Statistics of R matrices of N blocks, by the Frobenius norm.

    variance: of the entries; relative: `tasks.core.study.block_weights.relative_distance`; change: by a tuning, if one
    was given. NaN where a block lacks the matrix, or two blocks have it in different shapes.
    """

    norm: Annotated["np.ndarray", "float32 [R, N]"]
    variance: Annotated["np.ndarray", "float32 [R, N]"]
    distance: Annotated["np.ndarray", "float32 [R, N, N]"]
    relative: Annotated["np.ndarray", "float32 [R, N, N]"]
    change: NotRequired[Annotated["np.ndarray", "float32 [R, N]"]]


WEIGHTS_FILE = TensorFile("weights.safetensors", "distances of weights", WeightDistances)


class WeightsSummary(TypedDict):
    """Summary of `weights`. roles: names of the R matrices; num_entries: of all of them.

    mean_relative_distance: over pairs of blocks that can be compared; relative_change: if a tuning was given.
    """

    roles: list[str]
    num_blocks: int
    num_entries: int
    mean_relative_distance: NotRequired[float]
    relative_change: NotRequired[float]


def write_weight_distances(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `WeightDistances`."""
    WEIGHTS_FILE.write(folder, tensors)


def read_weight_distances(folder: Path) -> WeightDistances:
    """Read the statistics.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(WeightDistances, WEIGHTS_FILE.read(folder))


def weights_summary(result: HasSummary) -> WeightsSummary:
    """Return the summary of a result of `weights`."""
    return cast(WeightsSummary, result.summary)
