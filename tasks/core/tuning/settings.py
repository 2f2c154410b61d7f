"""Settings of a tuning and of a distillation; torch is not imported, so that settings load without it.

The classes named `...Options` declare what a user may set: name, type, bounds, default and meaning. A settings file
takes its tables from them.
"""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args

from tasks.core.bounds import Bounds, Count, Positive, check_fields
from tasks.core.errors import SettingError

Schedule = Literal["cosine", "linear", "constant"]
# How several devices tune one model: its blocks one after another, a copy on each, or a shard of each block on each.
# This is not a setting of a tuning and not part of any key. As with threads and kinds of device, only the order of sums
# differs (and with dropout, the dropped values), and a result from one GPU is not computed again on eight.
Parallel = Literal["layers", "data", "sharded"]
PARALLEL: tuple[Parallel, ...] = get_args(Parallel)
# Why DP-SGD has no copies and no shards.
ONE_PROCESS = 'gradients of single rows are clipped in one process; choose "layers"'
# Settings that decide how often progress is saved, whether activations are kept and whether divergence ends a run, but
# not what is computed.
NOT_CONTENT = ("checkpoint_steps", "gradient_checkpointing", "may_diverge")


@dataclass(frozen=True)
class StepOptions:
    """Options of every training: its steps, their size and learning rate, and checkpoints."""

    learning_rate: Positive = 2e-5
    """Peak learning rate of AdamW."""
    num_steps: Count | None = None
    """Optimizer steps."""
    batch_size: Count = 32
    """Rows of one optimizer step."""
    max_tokens: Count = 8192
    """Most padded tokens in one forward pass; a larger batch is accumulated."""
    warmup_steps: Annotated[int, Bounds(ge=0)] = 0
    """Steps of linear warm-up."""
    checkpoint_steps: Count = 50
    """Steps between checkpoints, from which a killed run resumes."""


@dataclass(frozen=True)
class ValidatedOptions(StepOptions):
    """Options of a training that may keep its best state."""

    eval_steps: Count | None = None
    """Steps between validations, of which the best state is kept; by default the last state is."""


@dataclass(frozen=True)
class TrainOptions(ValidatedOptions):
    """Options of a tuning. Its length is either num_steps or num_epochs."""

    num_epochs: Count | None = None
    """Passes over the training rows; give this or num_steps."""
    schedule: Schedule = "cosine"
    """Learning rate after warm-up."""
    weight_decay: Annotated[float, Bounds(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[Annotated[float, Bounds(ge=0, lt=1)], Annotated[float, Bounds(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip_norm: Positive = 1.0
    """Norm to which larger gradients are clipped."""
    patience: Count | None = None
    """Consecutive validations without improvement after which a tuning ends."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: the same numbers, less memory, a third more time."""
    dp_noise: Annotated[float, Bounds(ge=0)] | None = None
    """DP-SGD: noise on the sum of a step's gradients, as a multiple of dp_clip; 0 clips each row's gradient alone."""
    dp_clip: Positive = 1.0
    """Norm to which the gradient of each row is clipped with dp_noise."""
    dp_delta: Annotated[float, Bounds(gt=0, lt=1)] = 1e-5
    """The delta for which epsilon is computed with dp_noise; far less than one over the number of rows."""
    max_change: Positive | None = None
    """Largest change of a returned block, as a share of its norm; a larger change is scaled down to it at the end."""


@dataclass(frozen=True)
class TrainSettings(TrainOptions):
    """Settings of one tuning, of which either num_steps or num_epochs is given.

    Raises:
        SettingError: when a value is missing, unknown or out of range.
    """

    seed: int = 0
    """Seed of the order of rows, of dropout and of inserted tensors."""
    may_diverge: bool = False
    """Divergence is a result, not an error, since the best of several tunings is taken."""

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.num_steps is None) == (self.num_epochs is None):
            raise SettingError("give either `num_steps` or `num_epochs`, not both")
        if self.patience is not None and self.eval_steps is None:
            raise SettingError("`patience` needs validation losses: give `eval_steps` as well")
        if self.is_private and self.eval_steps is not None:
            raise SettingError(
                "`dp_noise` cannot be combined with `eval_steps` or `learning_rates`: epsilon does not cover a choice"
                " by validation loss; give one `learning_rate` and no `eval_steps`"
            )

    @property
    def is_private(self) -> bool:
        """Whether gradients of single rows are clipped, and noise added to their sum (DP-SGD)."""
        return self.dp_noise is not None

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result."""
        unused = {*NOT_CONTENT, *(name for name in ("patience", "max_change") if getattr(self, name) is None)}
        unused |= set() if self.is_private else {"dp_noise", "dp_clip", "dp_delta"}
        return {name: value for name, value in asdict(self).items() if name not in unused}


@dataclass(frozen=True)
class DistillOptions(ValidatedOptions):
    """Options of the distillation of an emulator's frozen blocks on generic text."""

    block: Annotated[int, Bounds(ge=2)] = 512
    """Tokens of a window of text, at most the model's context."""
    batch_size: Count = 32
    """Windows of one optimizer step."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW; cosine."""
    warmup_steps: Annotated[int, Bounds(ge=0)] = 2000
    """Steps of linear warm-up."""
    hidden_weight: Annotated[float, Bounds(ge=0)] = 30.0
    """Weight of the difference of hidden states beside the language-model loss."""
    loss_margin: Positive | None = None
    """Nats a token by which the emulator's loss is to exceed the teacher's; by default it is to be low (LLEOT)."""
    random_prompt: Annotated[int, Bounds(ge=0)] = 0
    """Random virtual tokens in front of every window, drawn for each forward pass, the same for both models (LLEOT)."""
    random_prompt_std: Positive = 20.0
    """Standard deviation of their vectors."""
    seed: int = 0
    """Seed of the order of windows."""


@dataclass(frozen=True)
class Elevation:
    """Options of a distillation that keeps the emulator's loss high, as in LLEOT (ACL 2026).

    margin: nats a token by which it is to exceed the teacher's, None for a low loss; prompt_tokens, prompt_std: number
    of random virtual tokens in front of every window, and the standard deviation of their vectors.
    """

    margin: float | None = None
    prompt_tokens: int = 0
    prompt_std: float = 20.0

    def cache_view(self) -> dict[str, Any]:
        """Settings that decide the result."""
        unused = () if self.prompt_tokens else ("prompt_std",)
        return {name: value for name, value in asdict(self).items() if name not in unused}

    @property
    def changes_nothing(self) -> bool:
        """Whether a distillation with these options is Offsite-Tuning's."""
        return self.margin is None and not self.prompt_tokens


@dataclass(frozen=True)
class Distillation(DistillOptions):
    """Settings of one distillation.

    Raises:
        SettingError: when a value is missing or out of range, or warm-up takes all steps.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_steps is None:
            raise SettingError("`num_steps` is missing; give the number of optimizer steps")
        if self.warmup_steps >= self.num_steps:
            raise SettingError(
                f"`warmup_steps` = {self.warmup_steps} but `num_steps` = {self.num_steps}: the learning rate would"
                " never be reached; take fewer warm-up steps"
            )

    @property
    def elevation(self) -> Elevation:
        """The options of LLEOT."""
        return Elevation(self.loss_margin, self.random_prompt, self.random_prompt_std)

    @property
    def training(self) -> TrainSettings:
        """The settings of its training loop."""
        shared = {field.name: getattr(self, field.name) for field in fields(ValidatedOptions)}
        return TrainSettings(**shared, seed=self.seed)
