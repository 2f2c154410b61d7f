"""What a strategy gives away, gets back, and takes to tune."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tasks.core.comparison import Mean, Score, mean_score

# What each figure is counted in.
UNITS = {
    "disclosed_parameters": "parameters",
    "disclosed_share": "share",
    "disclosed_bytes": "bytes",
    "trained_parameters": "parameters",
    "returned_bytes": "bytes",
    "tuning_seconds": "seconds",
    "peak_memory_gib": "GiB",
    "peak_gpu_memory_gib": "GiB",
}


@dataclass(frozen=True)
class Costs:
    """Figures of one strategy, those that there are.

    disclosed_*: distinct parameters and bytes of the emulator, and their share of the full model's parameters;
    trained_parameters and returned_bytes: of one tuning; tuning_seconds: of one seed, over all its learning rates;
    peak_*: the largest of all tunings, of one process and of one GPU.
    """

    disclosed_parameters: int | None = None
    disclosed_share: float | None = None
    disclosed_bytes: int | None = None
    trained_parameters: int | None = None
    returned_bytes: int | None = None
    tuning_seconds: Mean | None = None
    peak_memory_gib: float | None = None
    peak_gpu_memory_gib: float | None = None

    def rows(self, strategy: str) -> list[dict[str, object]]:
        """Long form, as the rows of a comparison: the figure is the setting, its unit the metric."""
        means = {name: getattr(self, name) for name in UNITS}
        return [
            {
                "strategy": strategy,
                "setting": name,
                "metric": UNITS[name],
                **asdict(mean if isinstance(mean, Mean) else Mean(mean, None, 1, "")),
            }
            for name, mean in means.items()
            if mean is not None
        ]


def mean_seconds(seconds: Sequence[float]) -> Mean | None:
    """Mean and standard error over seeds; of a single tuning no error."""
    return mean_score([Score(value) for value in seconds]) if seconds else None
