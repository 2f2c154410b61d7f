"""Settings of each flow: the same pydantic models for flow parameters, the form in the Prefect UI, and TOML files."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, PositiveInt, field_validator, model_validator

from flows.settings.base import Group
from flows.settings.emulator import Compress, Distill
from flows.settings.plan import PlanSettings, Share, Strategy
from flows.settings.study import Pooling, Study
from flows.settings.tune import FullTune, Tune
from tasks.core.bounds import Positive
from tasks.core.tuning.settings import Parallel
from tasks.store.home import default_home


class Model(Group, frozen=True):
    """The full model, whose blocks are captured, removed, shared and tuned."""

    name: str
    """Folder of a decoder-only Hugging Face model, or a hub id."""
    revision: str | None = None
    """Hub revision (commit, tag or branch); a folder has none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the computation; auto: bfloat16 where this machine multiplies it faster, else float32."""


class Task(Group, frozen=True):
    """The task on which the model is tuned and scored."""

    name: str
    """Name of an lm-eval task with a training split, or any name for your own text or instructions."""
    kind: Literal["lm_eval", "text", "instructions"] = "lm_eval"
    """A task of lm-evaluation-harness, plain text (scored by perplexity), or instruction rows (JSONL or CSV)."""
    data: str | None = None
    """Folder with train, validation and test files, for several tasks `folder/{name}`; by default from the hub."""
    template: Literal["default", "reference"] = "default"
    """Wording of training text: as lm-eval scores it, or as published (for the 13 published tasks and instructions)."""
    num_train: PositiveInt | None = None
    """Use only the first rows of the training split."""
    num_validation: PositiveInt | None = None
    """Use only the first rows of the validation split."""
    num_test: PositiveInt | None = None
    """Score only the first rows of the scored split."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Most tokens of an example; longer ones are cut. By default the model's context, or 2048 for document windows."""


class Support(Group, frozen=True):
    """The support set: the examples whose states decide the plan (CRaSh section 3.1)."""

    num_rows: PositiveInt = 512
    """Number of examples."""
    split: Literal["train", "validation"] = "validation"
    """Split of the examples. Validation is never the scored split: if a task scores that, 5% of train replace it."""
    part: Literal["prompt+answer", "prompt", "answer"] = "prompt+answer"
    """Part of an example that is run and pooled."""
    pooling: Pooling = "mean_weighted"
    """How the states of an example's tokens are pooled into one vector."""
    final_norm: bool = False
    """Take the last state after the final norm, as the published code does."""
    max_tokens: PositiveInt = 4096
    """Padded tokens in one forward pass of capture."""


class Similarity(Group, frozen=True):
    """The similarity of the blocks' states."""

    estimator: Literal["linear_cka", "debiased_cka", "rbf_cka"] = "linear_cka"
    """Estimator of the matrix that is clustered; all estimators are computed and drawn."""


class Evaluate(Group, frozen=True):
    """Scoring of the five settings."""

    max_tokens: PositiveInt = 8192
    """Padded tokens in one forward pass of scoring."""


class Search(Group, frozen=True):
    """Search for the best plan within a limit of disclosure (`crash search`). Empty lists: the values of the plan."""

    max_disclosed: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Largest share of the full model's parameters in the emulator, embeddings and head included, each counted once."""
    strategy: tuple[Strategy, ...] = ()
    """Strategies that are tried."""
    num_kept: tuple[PositiveInt, ...] = ()
    """Values of plan.num_kept that are tried."""
    num_tuned: tuple[PositiveInt, ...] = ()
    """Values of plan.num_tuned that are tried."""
    share: tuple[Share, ...] = ()
    """Values of plan.share that are tried."""
    by: Literal["measured", "estimated"] = "measured"
    """Tune and plug in every plan, or only those that the model owner's proxies rank best."""
    num_measured: PositiveInt = 4
    """Number of plans that are tuned and plugged in with by = "estimated"."""


class Export(Group, frozen=True):
    """Output beside the report."""

    plugged_model: bool = False
    """Also write the full model with the tuned blocks as a Hugging Face folder."""


class Place(Group, frozen=True):
    """Where runs store their data and how they use the machine; nothing here changes a result."""

    home: str = Field(default_factory=lambda: str(default_home()))
    """Folder of the store, the tracking database and the logs; by default `.crash` (or `$CRASH_HOME`)."""
    store: str | None = None
    """Folder of the artifact store, or a URL (s3://bucket/prefix); by default CRASH_STORE, else `store` in home."""
    mlflow: str | None = None
    """MLflow tracking URI; by default the server of `crash up`, else an SQLite file in home."""
    experiment: str = "crash-flow"
    """MLflow experiment."""
    label: str | None = None
    """Label at the end of the run's name in both UIs."""
    group: str | None = None
    """Tag `crash.group` of runs that belong together; a sweep gives its cells one."""
    cores_per_stage: PositiveInt = 1
    """CPU threads of one tuning or evaluation; others run at the same time."""
    gpus_per_stage: PositiveInt = 1
    """GPUs of one tuning or evaluation."""
    memory_gb: Positive | None = None
    """Main memory (10^9 bytes) for all stages together; by default what this machine or its container has."""
    parallel: Parallel = "layers"
    """Tuning on several GPUs: blocks spread over them, a copy on each (DDP), or a share of each block (FSDP2)."""

    @property
    def num_bytes(self) -> int | None:
        """Main memory for all stages together, in bytes, where it is given."""
        return int(self.memory_gb * 1e9) if self.memory_gb else None


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
    def _training_leaves_no_levels(self) -> "Settings":
        if self.distill.enabled and self.compress.method == "quantise":
            raise ValueError(
                'compress.method = "quantise" with distill.enabled: training would take the weights off their levels;'
                " choose one of them, or prune or low_rank"
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
            raise ValueError(f'{where}: training frozen blocks would {undone}; train "tuned", or choose low_rank')
        if tune.method == "lora":
            raise ValueError(
                f"{where}: LoRA has no place on weights in two factors; choose tune.method from blocks, adapter, bitfit"
                ' or train "tuned"'
            )
        return self

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
        return (self.place.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or "").strip() or None

    @property
    def tracking_named(self) -> str:
        """The setting or variable that gives the tracking server's address, for messages."""
        return "place.mlflow" if self.place.mlflow else "MLFLOW_TRACKING_URI"


class SearchSettings(Settings, frozen=True):
    """Settings of a search (`crash search`): those of a run, and the table `[search]`."""

    search: Search = Search()


class StudySettings(Settings, frozen=True):
    """Settings of a study (`crash study`), and of each of its cells: those of a run, and the table `[study]`."""

    study: Study = Study()


class AllSettings(StudySettings, SearchSettings, frozen=True):
    """A settings file may have the tables of all flows. Each command checks them all, and its flow gets its own."""


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
