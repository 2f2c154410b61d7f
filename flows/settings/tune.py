"""Settings of training: what is trained in the emulator and how, and the tuning of the full model."""

from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from flows.settings.group import Group
from tasks.core.bounds import Positive
from tasks.core.tuning.method import MethodOptions, TuningMethod, require_limitable
from tasks.core.tuning.settings import ONE_PROCESS, TrainOptions, TrainSettings

# The published length for models of about a billion parameters, where neither epochs nor steps are given.
NUM_EPOCHS = 5
# The grids of tune.learning_rates = "auto". Whole blocks: three of CRaSh's four rates (arXiv 2310.15477), and a larger
# one for small models. Other methods train much smaller parts, which take larger steps.
AUTO_RATES, AUTO_RATES_OF_PARTS, AUTO_RATES_OF_PROMPTS = (2e-5, 5e-5, 1e-4, 2e-4), (1e-4, 3e-4, 1e-3), (1e-3, 1e-2, 0.1)
AUTO_EVAL_STEPS = 50


class Tune(Group, TrainOptions, MethodOptions, frozen=True):
    """Training of the tuned blocks inside the emulator."""

    learning_rates: Literal["auto"] | tuple[Positive, ...] = ()
    """Rates in place of learning_rate: tune at each, select for each seed by validation loss; auto: a short grid."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """One tuning for each seed; several give mean and standard error."""

    @model_validator(mode="wrap")
    @classmethod
    def _validated_where_rates_are_chosen(cls, values: Any, make: ModelWrapValidatorHandler["Tune"]) -> "Tune":
        if not (isinstance(values, dict) and values.get("learning_rates") == "auto" and not values.get("eval_steps")):
            return make(values)
        made = make({**values, "eval_steps": AUTO_EVAL_STEPS})
        # Nobody has set it: a cell of a sweep with given rates has to name its own.
        made.model_fields_set.discard("eval_steps")
        return made

    @field_validator("learning_rates", mode="before")
    @classmethod
    def _check_learning_rates(cls, value: Any) -> Any:
        """One message, where pydantic has one for each kind of value."""
        if isinstance(value, str) and value != "auto":
            raise ValueError('neither a list of rates nor "auto"')
        rates = value if isinstance(value, list | tuple) else ()
        if not all(isinstance(rate, int | float) and rate > 0 for rate in rates):
            raise ValueError("rates are numbers greater than 0")
        return value

    @model_validator(mode="after")
    def _possible_and_each_once(self) -> "Tune":
        _ = self.tuning_method, self.train_settings(seed=self.seeds[0])
        if self.dp_noise is not None and self.learning_rates:
            raise ValueError(
                "dp_noise cannot be combined with learning_rates: epsilon does not cover the other tunings; give one"
                " learning_rate"
            )
        if self.max_change is not None:
            require_limitable(self.tuning_method)
        if self.learning_rates and self.eval_steps is None:
            raise ValueError("learning_rates needs validation losses: give eval_steps as well")
        if len(set(self.rates)) < len(self.rates):
            raise ValueError(f"learning_rates = {list(self.rates)} names a rate twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)} names a seed twice")
        return self

    def require_place(self, parallel: str) -> None:
        """Check that these tunings can be divided among GPUs as `place.parallel` says.

        Raises:
            ValueError: when they cannot.
        """
        if self.dp_noise is not None and parallel != "layers":
            raise ValueError(f'tune.dp_noise with place.parallel = "{parallel}": {ONE_PROCESS}')

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates at which the emulator is tuned."""
        if self.learning_rates == "auto":
            grids = {"blocks": AUTO_RATES, "prompt": AUTO_RATES_OF_PROMPTS}
            return grids.get(self.method, AUTO_RATES_OF_PARTS)
        return self.learning_rates or (self.learning_rate,)

    @property
    def full_rates(self) -> tuple[float, ...]:
        """Learning rates at which the full model is tuned, whose blocks are trained whole."""
        return AUTO_RATES if self.learning_rates == "auto" else self.rates

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
    learning_rates: tuple[Positive, ...] = ()
    """Rates of which the best is selected for each seed, if they differ from tune.learning_rates."""

    @model_validator(mode="after")
    def _one_or_several(self) -> "FullTune":
        if self.learning_rate and self.learning_rates:
            raise ValueError("give learning_rate or learning_rates")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates = {list(self.learning_rates)} names a rate twice")
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of this table; none where those of the emulator count."""
        return (self.learning_rate,) if self.learning_rate else self.learning_rates
