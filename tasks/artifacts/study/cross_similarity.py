"""The similarity of the states of two networks, `cross.safetensors`: the artifact of `cross`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict

from tasks.artifacts.files import TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class CrossSimilarity(TypedDict):
    """CKA of the N+1 states of one network with the M+1 of another; state 0 is the embeddings."""

    linear_cka: Annotated["np.ndarray", "float32 [N+1, M+1]"]
    debiased_cka: Annotated["np.ndarray", "float32 [N+1, M+1]"]
    rbf_cka: Annotated["np.ndarray", "float32 [N+1, M+1]"]


CROSS_FILE = TensorFile("cross.safetensors", "similarity of two networks", CrossSimilarity)


class CrossSummary(TypedDict):
    """Summary of `cross`. unlike_*: 1 - CKA, debiased, mean over blocks; unlike_same_depth: for equal depths only."""

    num_blocks: int
    num_other_blocks: int
    num_rows: int
    unlike_best_match: float
    unlike_same_depth: NotRequired[float]


def write_cross(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `CrossSimilarity`."""
    CROSS_FILE.write(folder, tensors)


def read_cross(folder: Path) -> "dict[str, np.ndarray]":
    """Read the matrices by the name of the estimator, as in `CrossSimilarity`.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return CROSS_FILE.read(folder)
