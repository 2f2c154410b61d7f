"""Tables of settings that need no file of their own."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from flows.settings.group import Group
from flows.settings.plan import Share, Strategy
from flows.settings.study import Pooling
from tasks.core.tuning.settings import Parallel
from tasks.store.home import default_home

# Value of place.mlflow that leaves delivery to the next run.
TRACKED_LATER = "later"


class Model(Group, frozen=True):
    """The full model, whose blocks are captured, removed, shared and tuned."""

    name: str
    """Folder of a decoder-only Hugging Face model, a GGUF file, or a hub id."""
    revision: str | None = None
    """Hub revision (commit, tag or branch); files on this machine have none."""
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
    template: Literal["default", "reference", "chat"] = "default"
    """Wording: lm-eval's; in training the published one (13 tasks, instructions); or turns of the tokenizer's chat."""
    num_train: PositiveInt | None = None
    """Use only the first rows of the training split."""
    num_validation: PositiveInt | None = None
    """Use only the first rows of the validation split."""
    num_test: PositiveInt | None = None
    """Score only the first rows of the scored split."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Most tokens of an example; longer ones are cut. By default the model's context, or 2048 for document windows."""


class Support(Group, frozen=True):
    """The support set: the examples that decide the plan (CRaSh section 3.1), stand-ins and GradOT's choice."""

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
    """Most padded tokens in one forward pass of capture; fewer where these do not fit into memory."""


class Similarity(Group, frozen=True):
    """The similarity of the blocks' states."""

    estimator: Literal["linear_cka", "debiased_cka", "rbf_cka", "trimmed_cka", "standardised_cka"] = "linear_cka"
    """Estimator of the matrix that is clustered (trimmed: without massive channels); all are computed and drawn."""


class Evaluate(Group, frozen=True):
    """Scoring of the five settings."""

    max_tokens: PositiveInt = 8192
    """Most padded tokens in one forward pass of scoring; fewer where these do not fit into memory."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    """Examples in front of each scored row of an lm-eval task, from the training rows; nothing is trained on them."""


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


class Exchange(Group, frozen=True):
    """An emulator that is given away (`crash emulate`): how much of the model, to whom, and what may come back."""

    budget: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of the full model's parameters that a recipient may have, all emulators so far together."""
    together: tuple[str, ...] = ()
    """Names of other trusted parties who may put their emulators together with the recipient's; they count as one."""
    days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Days until the bundle expires."""
    methods: Annotated[tuple[Literal["blocks", "lora", "bitfit"], ...], Field(min_length=1)] = ("blocks", "lora")
    """Tuning methods whose results may come back."""
    max_lora_rank: Annotated[int, Field(ge=1, le=4096)] = 64
    """Largest rank of LoRA's factors that may come back."""
    reference: bool = False
    """Also tune on own rows: `emulate` then says what the tuned emulator can do, `plug-in` how far its blocks move."""
    held_out: tuple[Task, ...] = ()
    """Tables `[[exchange.held_out]]`: further tasks that are scored by emulate, audit and plug-in; none is tuned on."""


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
    """MLflow tracking URI; by default that of `crash up`, else a file in home. "later": the next run sends this one."""
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
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Main memory (10^9 bytes) for all stages together; by default what this machine or its container has."""
    stream_blocks: Literal["auto", "always", "never"] = "auto"
    """Load the full model's blocks one at a time to capture and to score; "auto" where it does not fit into memory."""
    parallel: Parallel = "layers"
    """Tuning on several GPUs: blocks spread over them, a copy on each (DDP), or a share of each block (FSDP2)."""

    @property
    def num_bytes(self) -> int | None:
        """Main memory for all stages together, in bytes, where it is given."""
        return int(self.memory_gb * 1e9) if self.memory_gb else None
