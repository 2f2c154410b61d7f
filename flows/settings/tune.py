"""Settings of training: what is trained in the emulator and how, and the tuning of the full model."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from flows.settings.base import Group


class Tune(Group):
    """Training of the tuned blocks inside the emulator."""

    method: Literal["blocks", "lora", "adapter", "bitfit"] = "blocks"
    """Trained part of a block: all of it, low-rank factors of linear modules, a bottleneck behind it, or biases."""
    trained: Literal["tuned", "frozen", "all"] = "tuned"
    """Which blocks of the emulator are trained; frozen ones stay with it, only tuned ones are plugged in."""
    lm_head: bool = False
    """Train the language-model head too; a head that is tied to the embeddings becomes a separate copy."""
    freeze_bottom: bool = False
    """Keep the initial weights of tuned blocks in the lower half of the full model's stack."""
    lora_rank: PositiveInt = 4
    """Rank of LoRA's factors."""
    lora_alpha: PositiveInt = 32
    """LoRA adds alpha / rank times the product of its factors."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout probability of LoRA's inputs in training."""
    adapter_size: PositiveInt = 64
    """Width of a bottleneck adapter."""
    learning_rate: PositiveFloat = 2e-5
    """Peak learning rate of AdamW."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Several rates in place of learning_rate: tune at each, and select for each seed by validation loss."""
    num_epochs: PositiveInt | None = None
    """Passes over the training rows; give this or num_steps."""
    num_steps: PositiveInt | None = None
    """Optimizer steps; give this or num_epochs."""
    batch_size: PositiveInt = 32
    """Rows of one optimizer step."""
    max_tokens: PositiveInt = 8192
    """Padded tokens in one forward pass; a larger batch is accumulated."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip_norm: PositiveFloat = 1.0
    """Norm to which larger gradients are clipped."""
    eval_steps: PositiveInt | None = None
    """Steps between validations with the emulator, of which the best state is kept; by default the last state is."""
    patience: PositiveInt | None = None
    """Consecutive validations without improvement after which a tuning ends."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: the same numbers, less memory, a third more time."""
    checkpoint_steps: PositiveInt = 50
    """Steps between checkpoints, from which a killed run resumes."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """One tuning for each seed; several give mean and standard error."""

    @model_validator(mode="after")
    def _one_length(self) -> "Tune":
        if self.num_epochs is not None and self.num_steps is not None:
            raise ValueError("give num_epochs or num_steps, not both")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: each must be at least 0 and less than 1")
        for name, given in (("patience", self.patience is not None), ("learning_rates", bool(self.learning_rates))):
            if given and self.eval_steps is None:
                raise ValueError(f"{name} needs validation losses: give eval_steps as well")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates = {list(self.learning_rates)} names a rate twice")
        if self.freeze_bottom and self.trained == "frozen":
            raise ValueError('freeze_bottom is about tuned blocks, of which trained = "frozen" trains none')
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)} names a seed twice")
        return self


class FullTune(Group):
    """Tuning of every block of the full model: the ceiling that the method is measured against."""

    enabled: bool = True
    """Tune the full model; switch off if it does not fit."""
    learning_rate: PositiveFloat | None = None
    """Learning rate, if it differs from tune.learning_rate and tune.learning_rates."""
