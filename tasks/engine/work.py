"""A stage's view of its computation: where to write, where to report, when to stop."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.store.artifacts import Ref, Store
from tasks.store.checkpoints import CHECKPOINT_FILE, CheckpointFile
from tasks.store.metrics import METRICS_FILE, read_metrics

Item = TypeVar("Item")
logger = logging.getLogger(__name__)
# In the scratch folder: how often the kernel killed this computation for lack of memory.
KILLS_FILE = "memory_kills"


@dataclass
class Work:
    """One computation of one stage.

    out: files written here become the artifact.
    scratch: folder named by the stage's key that survives a kill; it holds the checkpoints.
    device: "cpu", "cuda:0", or "auto" to spread one model over all visible GPUs.
    num_processes: how many may tune one model together, as `parallel` says; rank: which of them this is, from 0, None
    for the process that starts them; meeting: file by which they find one another.
    streamed: whether to load the model's blocks one at a time, for lack of memory, where the stage can;
    fitting_tokens: padded tokens of the largest pass that fits into memory, 0 where the setting's does.
    """

    out: Path
    scratch: Path
    store: Store
    label: str = ""
    device: str = "cpu"
    num_threads: int = 1
    parallel: str = "layers"
    num_processes: int = 1
    rank: int | None = None
    meeting: str = ""
    streamed: bool = False
    fitting_tokens: int = 0
    show_progress: bool = False
    stop_signal: int | None = None
    polls_for_stop: bool = False

    def open(self, ref: Ref) -> Path:
        """Return the folder of a parent artifact, verified."""
        return self.store.open(ref)

    def checkpoint(self) -> CheckpointFile:
        """Return the file from which this computation continues after a kill, on any machine with the same store."""
        return CheckpointFile(self.scratch / CHECKPOINT_FILE, on_save=lambda: self.store.keep_work(self.scratch))

    @property
    def place(self) -> tuple[str, Path | None]:
        """The device of a model, and the folder for what its blocks on disk need, if they are loaded one at a time.

        Then it computes on one device, also where it would be spread over several.
        """
        if not self.streamed:
            return self.device, None
        return "cuda:0" if self.device == "auto" else self.device, self.scratch

    def pass_tokens(self, max_tokens: int, setting: str, largest: int | None = None) -> int:
        """Return the padded tokens of a pass: `max_tokens`, or as many as fit into memory.

        They are halved each time the kernel killed this computation for lack of memory.

        setting: the name of max_tokens, for the log. largest: tokens of the largest pass, where they may be fewer.
        """
        if 0 < self.fitting_tokens < max_tokens:
            logger.info(
                "at most %d tokens in a forward pass instead of %d (%s), by its estimated memory",
                *(self.fitting_tokens, max_tokens, setting),
            )
            max_tokens = self.fitting_tokens
        kills = read_kills(self.scratch)
        if not kills:
            return max_tokens
        smaller = max(1, min(max_tokens, largest or max_tokens) >> kills)
        logger.warning(
            "killed for lack of memory %s before: continued with at most %d tokens in a forward pass instead of %d"
            " (%s); results differ by rounding",
            *("once" if kills == 1 else f"{kills} times", smaller, max_tokens, setting),
        )
        return smaller

    def metric(self, step: int | None = None, **values: float) -> None:
        """Append values to the metrics file, which the tracking reads, so that training never waits for a server."""
        line = json.dumps({"time": round(time.time(), 3), "step": step, **values})
        with open(self.scratch / METRICS_FILE, "a") as file:
            file.write(line + "\n")

    def progress(self, items: Iterable[Item], description: str = "", total: int | None = None) -> Iterator[Item]:
        """Iterate with a progress bar; silent when standard error is not a terminal."""
        from tqdm import tqdm

        name = " ".join(part for part in (self.label, description) if part)
        quiet = not (self.show_progress and sys.stderr.isatty())
        yield from tqdm(items, desc=name, total=total, disable=quiet, leave=False, dynamic_ncols=True)

    def stop_requested(self) -> bool:
        """Return whether a request to stop was received. A stage that calls it must keep calling, and checkpoint."""
        self.polls_for_stop = True
        return self.stop_signal is not None

    def keep_metrics(self) -> None:
        """Copy the metrics beside the artifact; if a step was repeated after a kill, its last value counts."""
        source = self.scratch / METRICS_FILE
        if not source.exists():
            return
        latest: dict[tuple, dict] = {}
        for number, entry in enumerate(read_metrics(source)):
            step = entry.get("step")
            place = (number,) if step is None else (step, *sorted(entry.keys() - {"time", "step"}))
            latest[place] = entry
        (self.out / METRICS_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in latest.values()))


def read_kills(scratch: Path) -> int:
    """Return how often the kernel killed the computation with this scratch folder for lack of memory."""
    try:
        return int((scratch / KILLS_FILE).read_text())
    except (OSError, ValueError):
        return 0


def note_kill(scratch: Path) -> None:
    """Count one more such kill."""
    (scratch / KILLS_FILE).write_text(str(read_kills(scratch) + 1))
