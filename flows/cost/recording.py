"""A run that records its stages with their costs instead of submitting them; equal stages of all runs count once."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from flows.cost.priced import Cost, Priced, Sizes
from flows.cost.search_costs import SEARCH_COSTS
from flows.cost.stage_costs import FULL_TUNE, RUN_COSTS, CostOf
from flows.cost.study_costs import STUDY_COSTS
from flows.running.base_run import BaseRun
from flows.settings.run import Kind
from tasks.engine.stage import Stage
from tasks.models.source import ModelSource
from tasks.store.keys import canonical, canonical_json

COSTS: Mapping[str, CostOf] = {**RUN_COSTS, **SEARCH_COSTS, **STUDY_COSTS}
# The rows of the table: a stage's name, or the one that its cost gives.
ROWS = tuple(row for name in COSTS for row in ((name, FULL_TUNE) if name == "tune" else (name,)))


class Estimate:
    """Accumulates the stages of any number of runs; each is counted once.

    num_asked: stages that the runs would submit; by_name: cost and sizes of a stage by the name that it has in its run;
    approximate: for each model whose operations are approximate, the reason by its name; notes: sentences about what
    the estimate assumes.
    """

    def __init__(self) -> None:
        self.stages: dict[str, Cost] = {}
        self.by_name: dict[str, tuple[Cost, Sizes]] = {}
        self.num_asked = 0
        self.approximate: dict[str, str] = {}
        self.notes: list[str] = []

    def record(self, stage: Stage, label: str, arguments: Mapping[str, Any], sizes: Sizes) -> Priced:
        """Count a stage if it is new. As in the store, its identity is its name and its arguments with defaults."""
        self.num_asked += 1
        given = stage.with_defaults(**arguments)
        named = canonical_json(canonical({"stage": stage.name, "arguments": given}))
        call = Priced(stage.name, arguments, hashlib.sha256(named.encode()).hexdigest(), sizes)
        if call.key not in self.stages:
            self.stages[call.key] = COSTS[stage.name](call)
        self.by_name[stage.full_name(label)] = self.stages[call.key], sizes
        return call


class RecordingRun(BaseRun[Kind]):
    """One model and one task whose stages are recorded. text: name of the generic text, if it is used."""

    def __init__(
        self, settings: Kind, sizes: Sizes, estimate: Estimate, model: ModelSource, teacher: ModelSource | None
    ) -> None:
        parameters = sizes.shape.parameters
        super().__init__(settings, sizes.precision, model, parameters, settings.task, teacher, settings.text)
        self.sizes = sizes
        self.estimate = estimate

    def __call__(self, stage: Stage, label: str = "", **arguments: Any) -> Priced:
        return self.estimate.record(stage, self.labelled(label), arguments, self.sizes)

    def changed(self, settings: Kind) -> "RecordingRun[Kind]":
        part = super().changed(settings)
        part.sizes = self.sizes.with_settings(settings)
        return part

    def with_empty_estimate(self) -> "RecordingRun[Kind]":
        """Return this run with a new, empty estimate."""
        part = copy.copy(self)
        part.estimate = Estimate()
        return part

    def wait(self) -> None:
        """Do nothing: no stage computes."""

    def as_model(self, made: Priced, subfolder: str = "") -> Priced:
        return made
