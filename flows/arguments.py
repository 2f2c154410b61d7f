"""Settings as the arguments of each stage: what a stage does not use is not passed, and so is not part of its key."""

from dataclasses import fields
from typing import Any

from flows.settings import Settings
from tasks.core.train_settings import TrainSettings
from tasks.core.variant import Variant


class Arguments:
    """Arguments of the stages of one run, for a resolved precision and support split."""

    def __init__(self, settings: Settings, precision: str) -> None:
        self._settings = settings
        self._precision = precision

    @property
    def capture(self) -> dict[str, Any]:
        """The support set and how it is pooled."""
        support = self._settings.support
        return {**support.model_dump(), "precision": self._precision}

    @property
    def similarity(self) -> dict[str, Any]:
        """The estimator that plans are made from."""
        return {"estimator": self._settings.similarity.estimator}

    def cluster(self, strategy: str, num_blocks: int, similar: Any) -> dict[str, Any]:
        """The budget, and what only this strategy looks at."""
        plan = self._settings.plan
        share = None if plan.share == "none" else plan.share
        common = {"strategy": strategy, "num_blocks": num_blocks}
        if strategy == "fixed":
            return {**common, "kept": plan.kept, "tuned": plan.tuned, "share": share}
        common |= {"num_kept": plan.num_kept, "num_tuned": plan.num_tuned}
        if strategy == "uniform":
            return common
        return common | {
            "similarity": similar,
            "estimator": self._settings.similarity.estimator,
            "linkage": plan.linkage,
            "share": share,
            "keep_ends": plan.keep_ends,
        }

    @property
    def compress(self) -> dict[str, Any]:
        """How frozen blocks are made cheaper."""
        return {"how": self._settings.compress.compression}

    @property
    def distill(self) -> dict[str, Any]:
        """How frozen blocks are trained."""
        chosen = self._settings.distill.model_dump(exclude={"enabled", "teacher", "data", "block", "hidden_weight"})
        return {
            "settings": TrainSettings(**chosen),
            "block": self._settings.distill.block,
            "hidden_weight": self._settings.distill.hidden_weight,
            "precision": self._precision,
        }

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates at which the emulator is tuned, for each seed."""
        return grids(self._settings)[0]

    @property
    def full_rates(self) -> tuple[float, ...]:
        """Learning rates at which the full model is tuned, for each seed."""
        return grids(self._settings)[1]

    def tune(self, seed: int, rate: float | None = None) -> dict[str, Any]:
        """What of the emulator is trained, and how; whole tuned blocks need no word. rate: the first by default."""
        variant = make_variant(self._settings)
        settings = self._train_settings(seed, rate or self.rates[0])
        return {
            "settings": settings,
            "precision": self._precision,
            **({} if variant.is_default else {"variant": variant}),
        }

    def full_tune(self, seed: int, rate: float | None = None) -> dict[str, Any]:
        """How every block of the full model is trained. rate: the first by default."""
        return {"settings": self._train_settings(seed, rate or self.full_rates[0]), "precision": self._precision}

    def _train_settings(self, seed: int, rate: float) -> TrainSettings:
        known = {field.name for field in fields(TrainSettings)}
        chosen = self._settings.tune.model_dump(include=known)
        if chosen["num_epochs"] is None and chosen["num_steps"] is None:
            # The published length for models of about a billion parameters.
            chosen["num_epochs"] = 5
        return TrainSettings(**chosen | {"learning_rate": rate, "seed": seed})

    @property
    def plug_in(self) -> dict[str, Any]:
        """Whether the plugged model is written out."""
        return {"export": self._settings.export.plugged_model}

    @property
    def evaluate(self) -> dict[str, Any]:
        """How each of the five settings is scored."""
        return {"precision": self._precision, "max_tokens": self._settings.evaluate.max_tokens}


def grids(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Learning rates of the emulator's and of the full model's tuning; of several the best by validation counts."""
    rates = settings.tune.learning_rates or (settings.tune.learning_rate,)
    own = settings.full_tune.learning_rate
    return rates, (own,) if own else rates


def make_variant(settings: Settings) -> Variant:
    """What is trained of the emulator."""
    return Variant(**settings.tune.model_dump(include={field.name for field in fields(Variant)}))
