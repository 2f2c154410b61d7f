"""Distances between data sets in one model's states, `datasets.safetensors`: the artifact of `dataset_distances`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class DatasetDistances(TypedDict):
    """Distances between D data sets with n rows in all, in units of the pooled states' root mean square distance from
    their mean; mmd has no unit.

    *_halves: between two halves of one data set; map: classical scaling of the chosen distance; rows: all rows on their
    two principal components; row_dataset: the data set of each row.
    """

    energy: Annotated["np.ndarray", "float32 [D, D]"]
    mmd: Annotated["np.ndarray", "float32 [D, D]"]
    frechet: Annotated["np.ndarray", "float32 [D, D]"]
    energy_halves: Annotated["np.ndarray", "float32 [D]"]
    mmd_halves: Annotated["np.ndarray", "float32 [D]"]
    frechet_halves: Annotated["np.ndarray", "float32 [D]"]
    map: Annotated["np.ndarray", "float32 [D, 2]"]
    rows: Annotated["np.ndarray", "float32 [n, 2]"]
    row_dataset: Annotated["np.ndarray", "int64 [n]"]


DATASETS_FILE = TensorFile("datasets.safetensors", "distances between data sets", DatasetDistances)


class DatasetDistancesSummary(TypedDict):
    """Summary of `dataset_distances`.

    names, num_rows: of each data set; *_share: of the variance that the map or rows show.
    """

    distance: str
    names: list[str]
    num_rows: list[int]
    width: int
    bandwidth: float
    map_share: float
    rows_share: float


def write_dataset_distances(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `DatasetDistances`."""
    DATASETS_FILE.write(folder, tensors)


def read_dataset_distances(folder: Path) -> "dict[str, np.ndarray]":
    """Read the tensors by name, as in `DatasetDistances`; settings choose one of the distances by name.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return DATASETS_FILE.read(folder)


def dataset_distances_summary(result: HasSummary) -> DatasetDistancesSummary:
    """Return the summary of a result of `dataset_distances`."""
    return cast(DatasetDistancesSummary, result.summary)
