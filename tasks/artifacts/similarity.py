"""The similarity of every two states, `similarity.safetensors`: the artifact of `similarity`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class Similarity(TypedDict):
    """Measures between the N+1 states, of which state 0 is the embeddings, and the influence of the N blocks.

    largest_share, largest_channel: of each state, the largest share of its variance in one channel, and this channel.
    """

    linear_cka: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    debiased_cka: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    rbf_cka: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    trimmed_cka: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    standardised_cka: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    angular_distance: Annotated["np.ndarray", "float32 [N+1, N+1]"]
    block_influence: Annotated["np.ndarray", "float32 [N]"]
    largest_share: Annotated["np.ndarray", "float32 [N+1]"]
    largest_channel: Annotated["np.ndarray", "int64 [N+1]"]


SIMILARITY_FILE = TensorFile("similarity.safetensors", "similarity of states", Similarity)


class SimilaritySummary(TypedDict):
    """Summary of `similarity`. lowest_adjacent, highest_adjacent: of neighbouring blocks, by the estimator."""

    estimator: str
    num_blocks: int
    num_rows: int
    lowest_adjacent: float
    highest_adjacent: float


def write_similarity(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `Similarity`."""
    SIMILARITY_FILE.write(folder, tensors)


def read_similarity(folder: Path) -> "dict[str, np.ndarray]":
    """Read the matrices by the name of the measure, as in `Similarity`; settings choose one of them by name.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return SIMILARITY_FILE.read(folder)


def similarity_summary(result: HasSummary) -> SimilaritySummary:
    """Return the summary of a result of `similarity`."""
    return cast(SimilaritySummary, result.summary)
