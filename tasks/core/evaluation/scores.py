"""The result of scoring a model on a task."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scores:
    """Result of one scoring.

    metric, value, stderr: the main metric and its standard error over rows (None for a single row).
    num_rows: number of scored rows; metrics: every metric of the task; per_row: the main metric of each row, in order,
    when it is a mean over rows (else empty).
    per_row_losses: for a perplexity, the documents' losses in nats, scaled so that their mean is its logarithm.
    digest: digest of the texts of the rows, in their order.
    chance: what guessing scores: of multiple choice, the mean of one over the number of choices; of a perplexity for
    each token, the number of tokens in the vocabulary. None for other metrics.
    num_truncated: requests whose prompt lost its beginning, since it did not fit into the model's context.
    """

    metric: str
    value: float
    stderr: float | None
    num_rows: int
    higher_is_better: bool
    metrics: dict[str, float]
    per_row: list[float] = field(default_factory=list)
    per_row_losses: list[float] = field(default_factory=list)
    digest: str = ""
    chance: float | None = None
    num_truncated: int = 0
