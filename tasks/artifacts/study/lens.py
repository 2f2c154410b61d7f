"""How close a lens's predictions are to the output, `curves.safetensors`: beside the lens in the artifact of `lens`.

`tasks.models.lens_files` reads and writes the lens itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class LensCurves(TypedDict):
    """Means over positions behind each of N blocks, by the trained lens and by the logit lens.

    kl_*: from the model's output to the lens, nats; agreement_*: share of positions with the same likeliest token.
    """

    kl_logit: Annotated["np.ndarray", "float32 [N]"]
    kl_tuned: Annotated["np.ndarray", "float32 [N]"]
    agreement_logit: Annotated["np.ndarray", "float32 [N]"]
    agreement_tuned: Annotated["np.ndarray", "float32 [N]"]


CURVES_FILE = TensorFile("curves.safetensors", "curves of a lens", LensCurves)


class LensFacts(TypedDict):
    """Measurements on validation rows. mean_kl_*: means over all blocks but the last, nats."""

    num_positions: int
    mean_kl_logit: float
    mean_kl_tuned: float


class LensSummary(LensFacts):
    """Summary of `lens`, beside the fields of `tasks.core.tuning.state.TrainResult`."""

    num_steps: int
    num_rows: int
    num_held_out_rows: int


def write_curves(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `LensCurves`."""
    CURVES_FILE.write(folder, tensors)


def read_curves(folder: Path) -> "dict[str, np.ndarray]":
    """Read the curves by name, as in `LensCurves`.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return CURVES_FILE.read(folder)


def lens_summary(result: HasSummary) -> LensSummary:
    """Return the summary of a result of `lens`."""
    return cast(LensSummary, result.summary)
