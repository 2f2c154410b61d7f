"""Settings of compressed and distilled emulators."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from flows.settings.base import Group
from tasks.core.compression.settings import MAX_BITS, Compression
from tasks.core.errors import InputError


class Compress(Group):
    """Compression of the emulator's frozen blocks; tuned blocks stay as they are."""

    method: Literal["none", "prune", "quantise", "low_rank"] = "none"
    """Magnitude pruning, fake quantisation, or linear weights as two low-rank factors, cheaper to run and to send."""
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each weight's entries that become zero (prune)."""
    bits: Annotated[int, Field(ge=1, le=MAX_BITS)] | None = None
    """Each weight has at most 2^bits values (quantise)."""
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Rank of the factors, or its share of the full rank (low_rank); weights that would not shrink stay dense."""
    rank_choice: Literal["topk", "sampling", "lowrank"] = "topk"
    """Which singular values are kept: the largest, drawn ones, or those of the randomised SVD (low_rank)."""
    seed: int = 0
    """Seed of the rank choices that draw."""

    @model_validator(mode="after")
    def _method_has_its_number(self) -> "Compress":
        try:
            _ = self.compression
        except InputError as error:
            raise ValueError(str(error).removeprefix("compress.")) from None
        return self

    @property
    def compression(self) -> Compression | None:
        """The stage's compression; None for method none."""
        return None if self.method == "none" else Compression(**self.model_dump())


class Distill(Group):
    """Distillation of the emulator's frozen blocks on generic text, with the full model as teacher (Offsite-Tuning)."""

    enabled: bool = False
    """Distill; needs data and num_steps."""
    teacher: str | None = None
    """Folder or hub id of a model with the same depth, width and vocabulary; by default the model itself."""
    data: str | None = None
    """Folder with train and validation files of text, as for task.kind = "text", or a hub data set (owner/name)."""
    num_steps: PositiveInt | None = None
    """Optimizer steps."""
    block: Annotated[int, Field(ge=2)] = 512
    """Tokens of a window of text, at most the model's context."""
    batch_size: PositiveInt = 32
    """Windows of one optimizer step."""
    max_tokens: PositiveInt = 8192
    """Padded tokens in one forward pass; a larger batch is accumulated."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate of AdamW; cosine."""
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps of linear warm-up."""
    hidden_weight: Annotated[float, Field(ge=0)] = 30.0
    """Weight of the difference of hidden states beside the language-model loss."""
    eval_steps: PositiveInt | None = None
    """Steps between validations, of which the best state is kept; by default the last state is."""
    checkpoint_steps: PositiveInt = 50
    """Steps between checkpoints, from which a killed run resumes."""
    seed: int = 0
    """Seed of the order of windows."""

    @model_validator(mode="after")
    def _enabled_is_complete(self) -> "Distill":
        if not self.enabled:
            return self
        if missing := [name for name in ("data", "num_steps") if getattr(self, name) is None]:
            raise ValueError(f"enabled = true needs {' and '.join(missing)}")
        assert self.num_steps is not None
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} but num_steps = {self.num_steps}: the learning rate would never"
                " be reached; take fewer warm-up steps"
            )
        return self
