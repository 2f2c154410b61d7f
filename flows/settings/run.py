"""Settings of a run: the same pydantic model for flow parameters, the form in the Prefect UI, and TOML files."""

import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, field_validator, model_validator

from flows.settings.emulator import Compress, Distill, Harmonizers
from flows.settings.group import Group
from flows.settings.plan import PlanSettings, Strategy
from flows.settings.tables import (
    TRACKED_LATER,
    Evaluate,
    Export,
    Model,
    Place,
    Similarity,
    Support,
    Task,
)
from flows.settings.tune import FullTune, Tune


class Settings(Group, frozen=True):
    """Settings of a run (`crash run`) and of each cell of a sweep: one model, one task, one or several strategies."""

    model: Model
    task: Task
    strategy: Annotated[tuple[Strategy, ...], Field(min_length=1)] = ("crash",)
    """Strategies to choose blocks, run side by side; common stages are computed once."""
    support: Support = Support()
    similarity: Similarity = Similarity()
    plan: PlanSettings
    compress: Compress = Compress()
    distill: Distill = Distill()
    harmonizers: Harmonizers = Harmonizers()
    tune: Tune = Tune()
    full_tune: FullTune = FullTune()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    place: Place = Place()

    @field_validator("strategy", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fixed_needs_blocks(self) -> "Settings":
        if len(set(self.strategy)) < len(self.strategy):
            raise ValueError(f"strategy = {list(self.strategy)} names one twice")
        if "fixed" in self.strategy and not (self.plan.kept and self.plan.tuned):
            raise ValueError("strategy fixed needs plan.kept and plan.tuned")
        return self

    @model_validator(mode="after")
    def _rates_need_losses(self) -> "Settings":
        if len(self.full_tune.learning_rates) > 1 and self.tune.eval_steps is None:
            raise ValueError("full_tune.learning_rates needs validation losses: give tune.eval_steps as well")
        return self

    @model_validator(mode="after")
    def _private_gradients_are_of_one_process(self) -> "Settings":
        self.tune.require_place(self.place.parallel)
        return self

    @model_validator(mode="after")
    def _examples_are_of_lm_eval(self) -> "Settings":
        if self.evaluate.num_fewshot and self.task.kind != "lm_eval":
            raise ValueError(
                f'evaluate.num_fewshot = {self.evaluate.num_fewshot} with task.kind = "{self.task.kind}": only tasks of'
                " lm-eval have examples in front of their rows"
            )
        return self

    @model_validator(mode="after")
    def _harmonizers_have_text(self) -> "Settings":
        for name in filter(self.plan.needs_harmonizers, self.strategy):
            if self.distill.data is None:
                raise ValueError(
                    f"strategy {name} needs distill.data, the generic text on which harmonizers and scores are trained;"
                    ' or choose another strategy than scaleot, and another plan.share than "harmonizers"'
                )
            if self.distill.enabled and self.plan.is_harmonized(name):
                raise ValueError(
                    f"distill.enabled = true with the harmonizers of strategy {name}: both replace removed blocks;"
                    " switch it off (distill.data is the text of harmonizers too), or choose another plan.share"
                )
        return self

    @model_validator(mode="after")
    def _training_leaves_no_levels(self) -> "Settings":
        if self.distill.enabled and self.compress.method == "quantise":
            raise ValueError(
                'compress.method = "quantise" with distill.enabled: training would take the weights off their levels;'
                " choose one of them, or prune, low_rank or gradot"
            )
        return self

    @model_validator(mode="after")
    def _tuning_leaves_what_was_compressed(self) -> "Settings":
        compressed, tune = self.compress.method, self.tune
        if tune.trained == "tuned" or compressed == "none":
            return self
        where = f'tune.trained = "{tune.trained}" with compress.method = "{compressed}"'
        if compressed in ("prune", "quantise"):
            undone = "fill what was pruned" if compressed == "prune" else "take the weights off their levels"
            raise ValueError(
                f'{where}: training frozen blocks would {undone}; train "tuned", or choose low_rank or gradot'
            )
        if tune.method == "lora":
            raise ValueError(
                f"{where}: LoRA has no place on weights in two factors; choose tune.method from blocks, adapter, bitfit"
                ' or train "tuned"'
            )
        return self

    @property
    def trains_harmonizers(self) -> bool:
        """Whether harmonizers are trained for one of the strategies."""
        return any(map(self.plan.needs_harmonizers, self.strategy))

    @property
    def text(self) -> str | None:
        """The generic text that emulators need, to be distilled or for harmonizers; None where they need none."""
        return self.distill.data if self.distill.enabled or self.trains_harmonizers else None

    @property
    def store_root(self) -> Path:
        """Folder of the artifact store, or of the local copies in front of an object store."""
        return store_place(self.place.store, Path(self.place.home))[0]

    @property
    def store_url(self) -> str | None:
        """URL of the object store, where the settings or the environment name one."""
        return store_place(self.place.store, Path(self.place.home))[1]

    @property
    def tracking_uri(self) -> str | None:
        """Address of the tracking server, if there is one."""
        if self.tracked_later:
            return None
        return (self.place.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or "").strip() or None

    @property
    def tracked_later(self) -> bool:
        """Whether this run leaves its journal to the next one, and does not call MLflow."""
        return self.place.mlflow == TRACKED_LATER

    @property
    def tracking_named(self) -> str:
        """The setting or variable that gives the tracking server's address, for messages."""
        return "place.mlflow" if self.place.mlflow else "MLFLOW_TRACKING_URI"

    @property
    def held_out(self) -> tuple[Task, ...]:
        """Further tasks that are only scored."""
        return ()


Kind = TypeVar("Kind", bound=Settings)


def store_place(chosen: str | None, home: Path) -> tuple[Path, str | None]:
    """Return the store's folder and URL. The environment is that of the machine on which a run starts."""
    chosen = chosen or os.environ.get("CRASH_STORE") or None
    if chosen and "://" in chosen:
        return (home / "store").absolute(), chosen
    return Path(chosen or home / "store").absolute(), None
