"""The memory that each stage of a flow is expected to need, estimated once, before the first stage computes."""

import logging
import math
import threading
from collections.abc import Sequence

from flows.running.inputs import Inputs
from flows.settings.run import Settings
from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.engine.calls import call_in_child
from tasks.engine.machine_memory import total_memory
from tasks.engine.memory import Need
from tasks.engine.places import Stopped, never
from tasks.engine.resources import visible_gpus
from tasks.engine.stage import stage_of
from tasks.store.patience import watched

logger = logging.getLogger(__name__)
ESTIMATE = ("flows.cost.needs", "find_needs")
POLL_SECONDS = 0.5
# Stages of a model with so few parameters need at most some gigabytes: on a machine with more no estimate is worth it.
SMALL_PARAMETERS, SMALL_TOTAL = 10_000_000, 8 * 10**9


class ExpectedMemory:
    """Returns what a stage needs, by its full name; None where that is not known.

    flow: "crash", "search" or "study"; cells: label, settings and checked inputs of each model and task.
    """

    def __init__(self, flow: str, cells: Sequence[tuple[str, Settings, Inputs]]) -> None:
        self._flow = flow
        self._cells = [
            (label, _resolved(settings, inputs).model_dump_json(), inputs.task) for label, settings, inputs in cells
        ]
        place = cells[0][1].place
        given = place.num_bytes
        self._total = Need(given or total_memory(), math.inf)
        self._num_gpus = min(place.gpus_per_stage, len(visible_gpus()))
        largest = max(inputs.num_parameters for _, _, inputs in cells)
        may_skip = given is None and place.stream_blocks != "always"
        self._needs_none = may_skip and self._total.main >= SMALL_TOTAL and largest <= SMALL_PARAMETERS
        self._found: tuple[dict[str, Need], dict[str, str]] | None = None
        self._lock = threading.Lock()

    def __call__(self, name: str, stopped: Stopped = never) -> Need | None:
        """Return the need of a stage; of one that was not foreseen, that of the largest stage of its kind.

        Raises:
            EnvironmentFault: when it needs more main memory, or more memory of its GPUs, than there is.
            InterruptedRun: when stopped() is true meanwhile.
        """
        if self._needs_none:
            return None
        while not self._lock.acquire(timeout=POLL_SECONDS):
            if stopped():
                raise InterruptedRun("interrupted while its memory was estimated")
        try:
            if self._found is None:
                self._found = self._estimate(stopped)
        finally:
            self._lock.release()
        needs, advice = self._found
        need = needs.get(name) or _largest([each for key, each in needs.items() if stage_of(key) == stage_of(name)])
        if need is None:
            return None
        if not need.fits(self._total):
            raise EnvironmentFault(self._refusal(name, need, advice.get(name, "")))
        return need

    def _estimate(self, stopped: Stopped) -> tuple[dict[str, Need], dict[str, str]]:
        given = self._flow, self._cells, float(self._total.main), self._num_gpus
        try:
            with watched("the estimate of the memory of all stages"):
                needs, self._total, advice = call_in_child(*ESTIMATE, *given, stopped=stopped)
        except InterruptedRun:
            raise
        except Exception as error:
            # A run must not fail because its memory is not known.
            what = " ".join(str(error).split())
            logger.warning(
                "the memory of stages is not known, so none is reserved (%s: %s)", type(error).__name__, what
            )
            return {}, {}
        for name, text in advice.items():
            # A stage that is in the store already is never computed, so that the run may go on.
            logger.warning("%s", self._refusal(name, needs[name], text))
        return needs, advice

    def _refusal(self, name: str, need: Need, advice: str) -> str:
        if need.main > self._total.main:
            needed, there, where = need.main, self._total.main, " (place.memory_gb, or this machine or its container)"
            kind = "main memory"
        else:
            needed, there, where, kind = need.gpu, self._total.gpu, "", "GPU memory"
        return (
            f"{name} needs about {needed / 1e9:.1f} GB of {kind}, and stages here have {there / 1e9:.1f} GB{where}"
            f"{': ' if advice else ''}{advice}"
        )


def _largest(needs: list[Need]) -> Need | None:
    """Return a need that is enough for a stage that was not foreseen, from those of the same kind."""
    if not needs:
        return None
    largest = max(needs, key=lambda need: (need.gpu, need.main))
    return largest._replace(pass_tokens=min((need.pass_tokens for need in needs if need.pass_tokens), default=0))


def _resolved(settings: Settings, inputs: Inputs) -> Settings:
    """Return the settings with what was found out about the model: its folder and the number format."""
    found = {"name": inputs.model.path, "revision": None, "precision": inputs.precision}
    return settings.model_copy(update={"model": settings.model.model_copy(update=found)})
