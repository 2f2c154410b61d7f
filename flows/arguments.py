"""Settings as the arguments of each stage: what a stage does not use is not passed, and so is not part of its key."""

from dataclasses import replace
from typing import Any

from flows.settings import Settings
from tasks.core.train_settings import TrainSettings


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

    def tune(self, seed: int) -> dict[str, Any]:
        """How the emulator's tuned blocks are trained."""
        return {"settings": self._train_settings(seed), "precision": self._precision}

    def full_tune(self, seed: int) -> dict[str, Any]:
        """How every block of the full model is trained."""
        rate = self._settings.full_tune.learning_rate or self._settings.tune.learning_rate
        return {"settings": replace(self._train_settings(seed), learning_rate=rate), "precision": self._precision}

    def _train_settings(self, seed: int) -> TrainSettings:
        chosen = self._settings.tune.model_dump(exclude={"seeds"})
        if chosen["num_epochs"] is None and chosen["num_steps"] is None:
            # The published length for models of about a billion parameters.
            chosen["num_epochs"] = 5
        return TrainSettings(**chosen, seed=seed)

    @property
    def proxies(self) -> dict[str, Any]:
        """The owner's text on which an emulator is compared with the full model: the support set."""
        support = self._settings.support.model_dump(include={"num_rows", "split", "max_tokens"})
        return {**support, "precision": self._precision}

    @property
    def plug_in(self) -> dict[str, Any]:
        """Whether the plugged model is written out."""
        return {"export": self._settings.export.plugged_model}

    @property
    def evaluate(self) -> dict[str, Any]:
        """How each of the five settings is scored, and validated."""
        return {"precision": self._precision, "max_tokens": self._settings.evaluate.max_tokens}
