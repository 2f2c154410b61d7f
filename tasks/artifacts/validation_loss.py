"""The loss of a model on the validation split, `loss.json`: the artifact of `validate`."""

from pathlib import Path
from typing import TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile


class ValidationLoss(TypedDict):
    """The content of the file, which is also the stage's summary.

    loss: mean negative log-likelihood of answer tokens, nats; stderr: its standard error over examples, None for a
    single one; num_tokens: of answers; validation_digest: of the texts of the rows.
    """

    loss: float
    stderr: float | None
    num_tokens: int
    num_rows: int
    validation_digest: str


LOSS_FILE = JsonFile("loss.json", "validation loss", ValidationLoss, indent=2, end="\n")


def write_loss(folder: Path, found: ValidationLoss) -> None:
    """Write the loss of one model."""
    LOSS_FILE.write(folder, found)


def read_loss(folder: Path) -> ValidationLoss:
    """Read the loss of one model.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return LOSS_FILE.read(folder)


def loss_summary(result: HasSummary) -> ValidationLoss:
    """Return the summary of a result of `validate`."""
    return cast(ValidationLoss, result.summary)
