"""Settings of each flow: the same pydantic models for flow parameters, the form in the Prefect UI, and TOML files."""

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, field_validator, model_validator

from flows.settings.audit import Audit
from flows.settings.emulator import Compress, Distill, Harmonizers
from flows.settings.group import Group
from flows.settings.plan import PlanSettings, Strategy
from flows.settings.study import Study
from flows.settings.tables import (
    TRACKED_LATER,
    Evaluate,
    Exchange,
    Export,
    Model,
    Place,
    Search,
    Similarity,
    Support,
    Task,
)
from flows.settings.tune import FullTune, Tune
from tasks.core.errors import InputError


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


class SearchSettings(Settings, frozen=True):
    """Settings of a search (`crash search`): those of a run, and the table `[search]`."""

    search: Search = Search()


class StudySettings(Settings, frozen=True):
    """Settings of a study (`crash study`), and of each of its cells: those of a run, and the table `[study]`."""

    study: Study = Study()


class EmulateSettings(Settings, frozen=True):
    """Settings of an emulator that is given away (`crash emulate`): those of a run, and the table `[exchange]`."""

    exchange: Exchange = Exchange()

    @model_validator(mode="after")
    def _tasks_have_names(self) -> "EmulateSettings":
        names = [task.name for task in (self.task, *self.exchange.held_out)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"exchange.held_out: the task {min(twice)} is there twice, or is task.name; name each once"
            )
        return self

    @property
    def held_out(self) -> tuple[Task, ...]:
        """Further tasks on which the full model, the emulator and the plugged model are scored."""
        return self.exchange.held_out

    def require_one_strategy(self) -> Strategy:
        """Return the strategy.

        Raises:
            InputError: when there are several.
        """
        if len(self.strategy) > 1:
            raise InputError(f"strategy = {list(self.strategy)}: one emulator is given away, so give one strategy")
        return self.strategy[0]


class AuditSettings(Settings, frozen=True):
    """Settings of a recovery audit (`crash audit`): those of a run with `distill.data`, and the table `[audit]`."""

    audit: Audit = Audit()

    @model_validator(mode="after")
    def _has_text(self) -> "AuditSettings":
        if self.distill.data is None:
            raise ValueError(
                "an audit needs distill.data, the public text on which losses are measured and hidden blocks trained:"
                " give a folder with train and validation files of text"
            )
        return self

    @property
    def text(self) -> str | None:
        """The public text, whether or not emulators are distilled on it."""
        return self.distill.data

    def require_hidden(self, num_blocks: int) -> None:
        """Check, before anything is computed, that each emulator hides blocks, and that these can be filled in.

        Raises:
            InputError: when a strategy keeps every block, or has harmonizers.
        """
        for name in self.strategy:
            num_kept = len(self.plan.kept) if name == "fixed" else self.plan.num_kept
            if num_kept >= num_blocks:
                raise InputError(
                    f"strategy {name} keeps all {num_blocks} blocks of {self.model.name}, so that none is hidden and"
                    " nothing can be recovered: keep fewer (plan.num_kept, plan.kept)"
                )
            if self.plan.is_harmonized(name):
                raise InputError(
                    f"strategy {name} has harmonizers in the places of hidden blocks, which the audit does not fill in"
                    ' once more: choose another plan.share than "harmonizers"'
                )


class AllSettings(StudySettings, SearchSettings, EmulateSettings, frozen=True):
    """A settings file may have the tables of all flows. Each command checks them all, and its flow gets its own."""

    # Not by inheritance: of other flows' files, an audit's text is not asked for.
    audit: Audit = Audit()


Kind = TypeVar("Kind", bound=Settings)


def validated(values: dict[str, Any], kind: type[Kind]) -> Kind:
    """Return the settings that a kind of flow takes from a file's values, of which every table is checked.

    Raises:
        ValidationError: when a setting of any table is invalid.
    """
    whole = AllSettings.model_validate(values)
    if kind is AllSettings:
        return cast(Kind, whole)
    return kind.model_validate({name: value for name, value in values.items() if name in kind.model_fields})


def store_place(chosen: str | None, home: Path) -> tuple[Path, str | None]:
    """Return the store's folder and URL. The environment is that of the machine on which a run starts."""
    chosen = chosen or os.environ.get("CRASH_STORE") or None
    if chosen and "://" in chosen:
        return (home / "store").absolute(), chosen
    return Path(chosen or home / "store").absolute(), None
