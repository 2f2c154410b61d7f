"""Settings of the data owner, who has an emulator's bundle and a task, and no full model."""

from typing import Any, Literal

from pydantic import model_validator

from flows.settings.group import Group
from flows.settings.plan import PlanSettings
from flows.settings.run import Settings
from flows.settings.tables import Evaluate, Model, Place, Support, Task
from flows.settings.tune import FullTune, Tune


class Computation(Group, frozen=True):
    """The number format; everything else about the emulator is in its bundle."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the computation; auto: bfloat16 where this machine multiplies it faster, else float32."""


class TuneSettings(Group, frozen=True):
    """Settings of a tuning by the data owner (`crash tune`); the plan and the limits come from the bundle."""

    model: Computation = Computation()
    task: Task
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    place: Place = Place()

    @model_validator(mode="after")
    def _private_gradients_are_of_one_process(self) -> "TuneSettings":
        self.tune.require_place(self.place.parallel)
        return self

    def for_emulator(self, folder: str, kept: tuple[int, ...], tuned: tuple[int, ...]) -> Settings:
        """Return the settings of a run whose model is an opened emulator, all of whose blocks are kept.

        folder: of the emulator; kept, tuned: blocks by their indices in the full model.
        """
        positions = tuple(range(len(kept)))
        chosen: dict[str, Any] = {"num_kept": len(kept), "num_tuned": len(tuned), "kept": positions}
        return Settings(
            model=Model(name=folder, precision=self.model.precision),
            task=self.task,
            # No support set is looked at; this one is there for every task.
            support=Support(split="train", num_rows=4),
            strategy=("fixed",),
            plan=PlanSettings(**chosen, tuned=tuple(kept.index(block) for block in tuned)),
            tune=self.tune,
            full_tune=FullTune(enabled=False),
            evaluate=self.evaluate,
            place=self.place,
        )
