"""The main memory that each stage of a flow is expected to need, estimated once, before the first stage computes."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from flows.running.inputs import Inputs
from flows.settings.run import Settings
from tasks.core.errors import EnvironmentFault
from tasks.engine.calls import call_in_child
from tasks.engine.machine_memory import total_memory
from tasks.engine.resources import visible_gpus

logger = logging.getLogger(__name__)
ESTIMATE = ("flows.cost.needs", "find_needs")


class ExpectedMemory:
    """Returns the bytes that a stage needs, by its full name; None where that is not known.

    flow: "crash", "search" or "study"; cells: label, settings and checked inputs of each model and task.
    """

    def __init__(self, flow: str, cells: Sequence[tuple[str, Settings, Inputs]]) -> None:
        self._flow = flow
        self._cells = [
            (label, _with_precision(settings, inputs.precision).model_dump_json(), inputs.task)
            for label, settings, inputs in cells
        ]
        self._total = cells[0][1].place.num_bytes or total_memory()
        self._found: Any = None
        self._lock = threading.Lock()

    def __call__(self, name: str) -> int | None:
        """Return the need of a stage.

        Raises:
            EnvironmentFault: when a stage of the flow needs more than there is, whichever stage asks.
        """
        with self._lock:
            if self._found is None:
                self._found = self._estimate()
        if isinstance(self._found, EnvironmentFault):
            raise self._found
        need = self._found.get(name)
        return None if need is None else int(need)

    def _estimate(self) -> dict[str, float] | EnvironmentFault:
        try:
            found = call_in_child(*ESTIMATE, self._flow, self._cells, float(self._total), bool(visible_gpus()))
        except Exception as error:
            # A run must not fail because its memory is not known.
            what = " ".join(str(error).split())
            logger.warning(
                "the memory of stages is not known, so none is reserved (%s: %s)", type(error).__name__, what
            )
            return {}
        if found.too_large is None:
            return dict(found.by_name)
        needed = found.by_name[found.too_large]
        return EnvironmentFault(
            f"{found.too_large} needs about {needed / 1e9:.1f} GB of main memory, and stages here have"
            f" {self._total / 1e9:.1f} GB (place.memory_gb, or this machine or its container): {found.advice}"
        )


def _with_precision(settings: Settings, precision: str) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"precision": precision})})
