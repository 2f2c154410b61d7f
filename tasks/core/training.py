"""The tuning loop: small, resumable at every step to the same bits, and never past a number that is not finite."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate, steps_per_epoch, token_batches, training_batch
from tasks.core.blocks import load_tuned, tuned_parameters, tuned_state
from tasks.core.devices import EVERY, place
from tasks.core.errors import DivergedError, InputError, InterruptedRun
from tasks.core.losses import AnswerLoss, mean_loss
from tasks.core.plan import Plan
from tasks.core.train_settings import TrainSettings

logger = logging.getLogger(__name__)

__all__ = ["TrainResult", "TrainSettings", "learning_rate_factor", "num_training_steps", "train"]

Metrics = Callable[[int, dict[str, float]], None]


class Checkpoint(Protocol):
    """Where progress is kept: all of it or none."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last save, or None."""

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace what was saved before, atomically."""


@dataclass
class TrainResult:
    """How a tuning went. best_step is the step whose state was kept."""

    num_steps: int
    final_loss: float
    best_step: int
    best_validation_loss: float | None
    num_parameters: int
    num_threads: int
    seconds: float
    num_tokens: int

    def summary(self) -> dict[str, Any]:
        """Small JSON about it."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class _Progress:
    step: int = 0
    loss: float = math.nan
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    saved_step: int = 0
    num_tokens: int = 0


def num_training_steps(settings: TrainSettings, num_rows: int) -> int:
    """Optimizer steps of the whole tuning."""
    if settings.num_steps is not None:
        return settings.num_steps
    assert settings.num_epochs is not None
    return settings.num_epochs * steps_per_epoch(num_rows, settings.batch_size)


def learning_rate_factor(settings: TrainSettings, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0: linear warm-up, then the schedule down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def train(
    model: nn.Module,
    plan: Plan,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainSettings,
    *,
    device: str = "cpu",
    precision: str = "float32",
    pad_id: int = 0,
    checkpoint: Checkpoint | None = None,
    on_metrics: Metrics = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> TrainResult:
    """Train the tuned blocks of an emulator in place; afterwards they hold the state that is to be kept.

    Loss: mean over the answer tokens of a batch, in nats. Tuned tensors are float32; in bfloat16 the frozen matrices
    are bfloat16 and products run under autocast. Continues from the checkpoint, to the same bits as without the
    interruption. Raises DivergedError before the optimizer step at which loss or gradient is not finite,
    InterruptedRun after saving when should_stop() is true, InputError when there is nothing to train on.
    """
    if not examples:
        raise InputError("there are no training rows")
    run = _Tuning(model, plan, examples, validation, settings, device, precision, pad_id, checkpoint)
    began = time.monotonic()
    run.resume()
    for step in progress(range(run.progress.step, run.num_steps)):
        values = run.step(step)
        on_metrics(step + 1, values | run.validate(step))
        if should_stop() and step + 1 < run.num_steps:
            run.save()
            raise InterruptedRun(f"stopped after step {step + 1} of {run.num_steps}; run again to continue")
        if (step + 1) % settings.checkpoint_steps == 0:
            run.save()
    return run.finish(time.monotonic() - began)


class _Tuning:
    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        examples: Sequence[Example],
        validation: Sequence[Example],
        settings: TrainSettings,
        device: str,
        precision: str,
        pad_id: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.examples, self.settings, self.pad_id, self.checkpoint = examples, settings, pad_id, checkpoint
        self.plan, self.model = plan, model
        torch.manual_seed(settings.seed)
        _set_formats(model, plan, precision)
        self.accelerator = _accelerator(device, precision)
        place(model, EVERY if device == EVERY else self.accelerator.device)
        self.parameters = tuned_parameters(model, plan)
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=fused
        )
        self.loss = AnswerLoss(model)
        self.num_steps = num_training_steps(settings, len(examples))
        self.validation = [self._batch(validation, part) for part in token_batches(validation, settings.max_tokens)]
        self.progress = _Progress()
        self._tokens, self._since = 0, time.monotonic()

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step over one batch; what was seen on the way."""
        self.model.train()
        chosen = training_batch(len(self.examples), self.settings.batch_size, self.settings.seed, step)
        rows = [self.examples[index] for index in chosen]
        batches = [self._batch(rows, part) for part in token_batches(rows, self.settings.max_tokens)]
        num_answers = sum(len(row.answer_ids) for row in rows)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            with self.accelerator.autocast():
                summed, _ = self.loss(batch)
            self.accelerator.backward(summed / num_answers)
            total += float(summed.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
        rate = self.settings.learning_rate * learning_rate_factor(self.settings, step, self.num_steps)
        self.progress.loss = total / num_answers
        self._require_finite(step, rate, norm, rows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.progress.step = step + 1
        self.progress.num_tokens += sum(row.num_tokens for row in rows)
        return {
            "loss": self.progress.loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": self._speed(sum(row.num_tokens for row in rows)),
        }

    def validate(self, step: int) -> dict[str, float]:
        """Validation loss where it is due, the last step included; keeps the best state."""
        every = self.settings.eval_steps
        if not (every and self.validation and ((step + 1) % every == 0 or step + 1 == self.num_steps)):
            return {}
        self.model.eval()
        with self.accelerator.autocast():
            value = mean_loss(self.loss, self.validation)
        if not math.isfinite(value):
            raise self._diverged(f"the validation loss is not finite after step {step + 1} of {self.num_steps}")
        if value < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = value, step + 1
            self.progress.best = {name: tensor.clone() for name, tensor in tuned_state(self.model, self.plan).items()}
        return {"validation_loss": value}

    def save(self) -> None:
        """Everything that the next step depends on."""
        if self.checkpoint is None:
            return
        state = self.optimizer.state_dict()["state"]
        tensors = {f"tuned/{name}": tensor for name, tensor in tuned_state(self.model, self.plan).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.progress.best.items()}
        for index, moments in state.items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        for index, random_state in enumerate(_cuda_random_states()):
            tensors[f"random/cuda/{index}"] = random_state
        facts = {name: value for name, value in vars(self.progress).items() if name != "best"}
        self.progress.saved_step = facts["saved_step"] = self.progress.step
        self.checkpoint.save(tensors, facts | {"num_threads": torch.get_num_threads()})

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        tensors, facts = saved
        load_tuned(self.model, _under("tuned/", tensors), self.plan)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer/", tensors).items():
            index, _, moment = name.partition("/")
            moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["random/cpu"])
        self._restore_cuda_random_states(_under("random/cuda/", tensors))
        if facts["num_threads"] != (threads := torch.get_num_threads()):
            was = facts["num_threads"]
            logger.warning("the checkpoint was written with %d threads, here are %d: not the same bits", was, threads)
        known = {name: value for name, value in facts.items() if name in _Progress.__dataclass_fields__}
        self.progress = _Progress(**known, best=_under("best/", tensors))

    def _restore_cuda_random_states(self, saved: dict[str, Tensor]) -> None:
        """Of the devices that are here; a run that goes on elsewhere ends with other bits, and says so."""
        here = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if len(saved) != here:
            logger.warning("the checkpoint was written with %d GPUs, here are %d: not the same bits", len(saved), here)
        for index, random_state in saved.items():
            if int(index) < here:
                torch.cuda.set_rng_state(random_state, int(index))

    def finish(self, seconds: float) -> TrainResult:
        """Put the state that is kept into the model."""
        best = self.progress.best
        if best:
            load_tuned(self.model, best, self.plan)
        # No loss was computed behind the last step, which may be the one that broke them.
        for name, tensor in tuned_state(self.model, self.plan).items():
            if not tensor.isfinite().all():
                raise self._diverged(f"{name} is not finite after the last step, {self.num_steps}")
        return TrainResult(
            num_steps=self.num_steps,
            final_loss=self.progress.loss,
            best_step=self.progress.best_step if best else self.num_steps,
            best_validation_loss=self.progress.best_loss if best else None,
            num_parameters=sum(parameter.numel() for parameter in self.parameters),
            num_threads=torch.get_num_threads(),
            seconds=round(seconds, 3),
            num_tokens=self.progress.num_tokens,
        )

    def _batch(self, examples: Sequence[Example], part: Sequence[int]) -> Batch:
        return collate([examples[index] for index in part], self.pad_id).to(self.accelerator.device)

    def _speed(self, num_tokens: int) -> float:
        self._tokens += num_tokens
        return self._tokens / max(time.monotonic() - self._since, 1e-9)

    def _require_finite(self, step: int, rate: float, norm: float, rows: Sequence[Example]) -> None:
        if math.isfinite(self.progress.loss) and math.isfinite(norm):
            return
        what = "loss" if not math.isfinite(self.progress.loss) else "gradient"
        raise DivergedError(
            f"the {what} is not finite at step {step + 1} of {self.num_steps}, learning rate {rate:.3g}, training rows"
            f" {[row.row for row in rows]}; {self._kept()}. Lower tune.learning_rate, or look at those rows"
        )

    def _diverged(self, what: str) -> DivergedError:
        rate = self.optimizer.param_groups[0]["lr"]
        return DivergedError(f"{what}, learning rate {rate:.3g}; {self._kept()}. Lower tune.learning_rate")

    def _kept(self) -> str:
        saved = self.progress.saved_step
        return f"the checkpoint of step {saved} is untouched" if saved else "no checkpoint was written yet"


def _accelerator(device: str, precision: str) -> Any:
    """Accelerate for this tuning; it remembers the first one's device and precision for the whole process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")


def _cuda_random_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_formats(model: nn.Module, plan: Plan, precision: str) -> None:
    """Tuned tensors in float32 (bfloat16 ones lose most updates at small learning rates), frozen matrices as asked.

    Frozen vectors (norms, biases) stay float32: they cost nothing, and norms mix badly with narrower weights.
    """
    narrow = torch.bfloat16 if precision == "bfloat16" else torch.float32
    tuned = {id(parameter) for parameter in tuned_parameters(model, plan)}
    for parameter in model.parameters():
        wide = id(parameter) in tuned or parameter.dim() < 2
        parameter.requires_grad_(id(parameter) in tuned)
        parameter.data = parameter.data.to(torch.float32 if wide else narrow)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
