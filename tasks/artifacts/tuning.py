"""The files of a tuning and the summaries of `tune`, `select` and `plug_in`.

`tasks.models.tuned_blocks` reads and writes the files and says what is in them.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, cast

from tasks.artifacts.files import HasSummary
from tasks.artifacts.plan import PLAN_FILE

TUNED_FILE = "tuned.safetensors"
KEPT_FILE = "emulator.safetensors"
VARIANT_FILE = "variant.json"
DIVERGED_FILE = "diverged.json"
# All files that a tuning can leave if it did not diverge.
TUNING_FILES = (TUNED_FILE, KEPT_FILE, VARIANT_FILE, PLAN_FILE)
# Folder of the plug-in as a Hugging Face folder, where it is exported.
EXPORT_FOLDER = "model"


class TuningSummary(TypedDict, total=False):
    """Summary of `tune`, and of `select` for the tuning that it chose. Of one that diverged: `diverged` and `seconds`.

    Up to `stopped_early` as `tasks.core.tuning.state.TrainResult`. peak_*: of this process, and of one of its GPUs, in
    GiB; *_digest: of the texts of the rows. From learning_rate on, of `select`: all_seconds is the time of all tunings;
    it also has `validation_loss_at_{rate}` for each rate. dp_*: of DP-SGD; change_before_limit: how far the block that
    moved furthest had moved before `max_change`, as a share of its norm.
    """

    diverged: str
    num_steps: int
    final_loss: float
    best_step: int
    best_validation_loss: float
    num_parameters: int
    num_threads: int
    num_processes: int
    seconds: float
    num_tokens: int
    out_of_memory_step: int
    max_tokens: int
    stopped_early: bool
    peak_memory_gib: float
    peak_gpu_memory_gib: float
    num_rows: int
    num_truncated: int
    train_digest: str
    validation_digest: str
    dp_epsilon: float
    dp_delta: float
    dp_noise: float
    dp_clip: float
    change_before_limit: float
    learning_rate: float
    num_diverged: int
    all_seconds: float


class PlugInSummary(TypedDict):
    """Summary of `plug_in`, which also has `moved_block_{index}` for whole blocks: how far each moved."""

    num_tuned: int


def tuning_summary(result: HasSummary) -> TuningSummary:
    """Return the summary of a result of `tune` or `select`."""
    return cast(TuningSummary, result.summary)


def peak_memory(results: Sequence[HasSummary]) -> dict[str, float]:
    """Return the maximum over tunings of each known `peak_*`, in GiB."""
    names = {name for result in results for name in result.summary if name.startswith("peak_")}
    return {name: max(result.summary.get(name, 0.0) for result in results) for name in sorted(names)}


def as_tuning_summary(values: dict[str, Any]) -> TuningSummary:
    """Return values collected from several sources as the summary of a tuning."""
    unknown = sorted(values.keys() - TuningSummary.__annotations__.keys())
    assert not unknown, f"the summary of a tuning has no field {unknown[0]}"
    return cast(TuningSummary, values)
