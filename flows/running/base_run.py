"""The run as the functions that submit stages see it: the same for a run that computes and one that is only priced."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Self

from flows.running.arguments import Arguments
from flows.running.published_as import published_as
from flows.settings.run import Kind
from tasks.engine.stage import Stage
from tasks.models.source import ModelSource


class BaseRun(ABC, Generic[Kind]):
    """One model and one task with their settings; `run(stage, label, **arguments)` submits a stage.

    model, task: as stages take them; teacher: of a distillation, else None; text: generic text, where it is used;
    held_out: by name, further tasks that are only scored; arguments: of every stage, from the settings; facts: shown in
    the report beside the stages' results; prefix: precedes the labels of its stages, where a flow has several models or
    tasks.
    """

    def __init__(
        self,
        settings: Kind,
        precision: str,
        model: ModelSource,
        num_parameters: int,
        task: Any,
        teacher: ModelSource | None,
        text: Any,
    ) -> None:
        self.settings = settings
        self.prefix = ""
        self.model = model
        self.task = task
        self.teacher, self.text = teacher, text
        self.held_out: dict[str, Any] = {}
        self.arguments = Arguments(settings, precision)
        self.facts: dict[str, Any] = {
            "model": Path(settings.model.name).name,
            "task": settings.task.name,
            "num_blocks": model.num_blocks,
            "num_parameters": num_parameters,
            "precision": precision,
            "tuning_seeds": list(settings.tune.seeds),
            "support_split": settings.support.split,
            "num_kept": settings.plan.num_kept,
            "num_tuned": settings.plan.num_tuned_blocks,
            "published_as": published_as(settings),
        }

    @abstractmethod
    def __call__(self, stage: Stage, label: str = "", **arguments: Any) -> Any:
        """Submit a stage; return its result, which other stages take as an argument."""

    def labelled(self, label: str) -> str:
        """Return the label of a stage with the prefix of this run."""
        return " · ".join(part for part in (self.prefix, label) if part)

    def changed(self, settings: Kind) -> Self:
        """Return this run with other settings, for some of its stages; it waits only for these."""
        part = copy.copy(self)
        part.settings, part.arguments = settings, Arguments(settings, self.facts["precision"])
        return part

    @abstractmethod
    def wait(self) -> None:
        """Wait for all stages so far, in the order of submission; raise the error of the first that failed."""

    @abstractmethod
    def as_model(self, made: Any, subfolder: str = "") -> Any:
        """Wait for an artifact that has a model folder (at `subfolder`), and return the model as stages take it."""

    def by_seed(self, values: list[Any]) -> Iterator[tuple[str, Any]]:
        """Yield each tuning seed's name and value."""
        for seed, value in zip(self.settings.tune.seeds, values, strict=True):
            yield f"seed {seed}", value
