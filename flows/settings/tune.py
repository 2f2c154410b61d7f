"""Settings of training: what is trained in the emulator and how, and the tuning of the full model."""

from typing import Annotated

from pydantic import Field, model_validator

from flows.settings.group import Group
from tasks.core.bounds import Positive
from tasks.core.tuning.method import MethodOptions, TuningMethod
from tasks.core.tuning.settings import TrainOptions, TrainSettings

# The published length for models of about a billion parameters, where neither epochs nor steps are given.
NUM_EPOCHS = 5


class Tune(Group, TrainOptions, MethodOptions, frozen=True):
    """Training of the tuned blocks inside the emulator."""

    learning_rates: tuple[Positive, ...] = ()
    """Several rates in place of learning_rate: tune at each, and select for each seed by validation loss."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """One tuning for each seed; several give mean and standard error."""

    @model_validator(mode="after")
    def _possible_and_each_once(self) -> "Tune":
        _ = self.tuning_method, self.train_settings(seed=self.seeds[0])
        if self.learning_rates and self.eval_steps is None:
            raise ValueError("learning_rates needs validation losses: give eval_steps as well")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates = {list(self.learning_rates)} names a rate twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)} names a seed twice")
        return self

    @property
    def tuning_method(self) -> TuningMethod:
        """The tuning method of the emulator."""
        return self.make(TuningMethod)

    def train_settings(self, **chosen: object) -> TrainSettings:
        """Return the settings of one tuning. chosen: its seed, learning rate and whether it may diverge."""
        if self.num_epochs is None and self.num_steps is None:
            chosen["num_epochs"] = NUM_EPOCHS
        return self.make(TrainSettings, **chosen)


class FullTune(Group, frozen=True):
    """Tuning of every block of the full model: the ceiling that the method is measured against."""

    enabled: bool = True
    """Tune the full model; switch off if it does not fit."""
    learning_rate: Positive | None = None
    """Learning rate, if it differs from tune.learning_rate and tune.learning_rates."""
