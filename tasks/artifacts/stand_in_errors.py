"""Errors of the linear stand-ins of all runs of blocks, `stand_in_errors.safetensors`: of stage `stand_in_errors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class StandInErrors(TypedDict):
    """Held-out errors by the block in front of a run, and the run's last block; infinite where none was measured.

    effects: mean squared first-order change of the loss by the stand-in, in nats^2 a token, from which plans are made.
    errors, errors_without: squared error with the stand-in, and where the run is only removed, as shares of the squared
    norm of what it gives.
    """

    effects: Annotated["np.ndarray", "float32 [N, N]"]
    errors: Annotated["np.ndarray", "float32 [N, N]"]
    errors_without: Annotated["np.ndarray", "float32 [N, N]"]


STAND_IN_ERRORS_FILE = TensorFile("stand_in_errors.safetensors", "errors of stand-ins", StandInErrors)


class StandInErrorsSummary(TypedDict):
    """Summary of `stand_in_errors`."""

    num_blocks: int
    num_runs: int
    num_rows: int


def write_stand_in_errors(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `StandInErrors`."""
    STAND_IN_ERRORS_FILE.write(folder, tensors)


def read_stand_in_errors(folder: Path) -> StandInErrors:
    """Read the errors.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(StandInErrors, STAND_IN_ERRORS_FILE.read(folder))
