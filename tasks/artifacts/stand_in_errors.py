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

    errors: of the stand-in; errors_without: where the run is only removed.
    """

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
