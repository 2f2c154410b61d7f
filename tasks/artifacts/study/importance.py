"""The loss without each block, `importance.safetensors`: the artifact of `importance`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict, cast

from tasks.artifacts.files import HasSummary, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class Importance(TypedDict):
    """Losses in nats per answer token, of a model with N blocks, K of them tuned; perplexities are exponentials.

    deleted: without each block; pairs: with block j at position i in row i; rewound: of the tuned model with one block
    as it was before; tuned_blocks: indices; *_stderr: standard error over rows of the difference to the model's loss.
    Tensors that were not requested are absent.
    """

    loss: Annotated["np.ndarray", "float64 [1]"]
    deleted: Annotated["np.ndarray", "float64 [N]"]
    deleted_stderr: Annotated["np.ndarray", "float64 [N]"]
    pairs: NotRequired[Annotated["np.ndarray", "float64 [N, N]"]]
    pairs_stderr: NotRequired[Annotated["np.ndarray", "float64 [N, N]"]]
    tuned_loss: NotRequired[Annotated["np.ndarray", "float64 [1]"]]
    tuned_blocks: NotRequired[Annotated["np.ndarray", "int64 [K]"]]
    rewound: NotRequired[Annotated["np.ndarray", "float64 [K]"]]
    rewound_stderr: NotRequired[Annotated["np.ndarray", "float64 [K]"]]


IMPORTANCE_FILE = TensorFile("importance.safetensors", "importance of blocks", Importance)


class ImportanceFacts(TypedDict):
    """Losses in nats per answer token; *_increase: by deleting one block; num_helpful: deletions that lower it."""

    loss: float
    perplexity: float
    num_blocks: int
    most_important: int
    least_important: int
    num_helpful: int
    largest_increase: float
    smallest_increase: float
    largest_perplexity: float
    smallest_perplexity: float
    tuned_loss: NotRequired[float]
    tuned_perplexity: NotRequired[float]


class ImportanceSummary(ImportanceFacts):
    """Summary of `importance`. num_tokens: of answers."""

    num_rows: int
    num_tokens: int
    split: str


def write_importance(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `Importance`."""
    IMPORTANCE_FILE.write(folder, tensors)


def read_importance(folder: Path) -> Importance:
    """Read the losses.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(Importance, IMPORTANCE_FILE.read(folder))


def importance_summary(result: HasSummary) -> ImportanceSummary:
    """Return the summary of a result of `importance`."""
    return cast(ImportanceSummary, result.summary)
