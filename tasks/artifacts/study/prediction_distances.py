"""Distances between the predictions behind every two blocks, `distances.safetensors`: the artifact of `distances`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class PredictionDistances(TypedDict):
    """Means over positions, for N blocks.

    kl: row i, column j is KL(p_i || p_j), nats; js: nats; cosine: 1 - cos; wasserstein: of order 1, over the line of
    the model's own surprisal, nats.
    """

    kl: Annotated["np.ndarray", "float32 [N, N]"]
    js: Annotated["np.ndarray", "float32 [N, N]"]
    hellinger: Annotated["np.ndarray", "float32 [N, N]"]
    total_variation: Annotated["np.ndarray", "float32 [N, N]"]
    cosine: Annotated["np.ndarray", "float32 [N, N]"]
    wasserstein: Annotated["np.ndarray", "float32 [N, N]"]


DISTANCES_FILE = TensorFile("distances.safetensors", "distances of predictions", PredictionDistances)


class DistancesSummary(TypedDict):
    """Summary of `distances`, which also has `adjacent_{distance}`, means over neighbouring blocks.

    lens: "logit" or "tuned".
    """

    lens: str
    num_blocks: int
    num_rows: int
    split: str
    num_positions: int


def write_distances(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `PredictionDistances`."""
    DISTANCES_FILE.write(folder, tensors)


def read_distances(folder: Path) -> "dict[str, np.ndarray]":
    """Read the matrices by the name of the distance, as in `PredictionDistances`.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return DISTANCES_FILE.read(folder)


def distances_summary(result: HasSummary) -> DistancesSummary:
    """Return the summary of a result of `distances`."""
    return cast(DistancesSummary, result.summary)
