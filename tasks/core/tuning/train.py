"""The tuning loop: it resumes at any step with the same bits, and stops at a number that is not finite."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from tasks.core.batching import Example, prepend_ids, training_batch
from tasks.core.blocks.devices import EVERY, place
from tasks.core.blocks.memory import FlatMemory, is_memory_fault, recomputing, release
from tasks.core.blocks.soft_prompt import prompt_ids
from tasks.core.errors import DivergedError, EnvironmentFault, InputError, InterruptedRun
from tasks.core.privacy.noise import new_key
from tasks.core.tuning.attention import float32_attention
from tasks.core.tuning.dividing import Division
from tasks.core.tuning.failures import Names, diverged, not_finite, out_of_memory
from tasks.core.tuning.losses import summed_loss
from tasks.core.tuning.parallel import Team, make_team
from tasks.core.tuning.precision import make_accelerator, set_formats
from tasks.core.tuning.private_steps import PrivateSteps
from tasks.core.tuning.schedule import learning_rate_factor, num_training_steps
from tasks.core.tuning.settings import ONE_PROCESS, TrainSettings
from tasks.core.tuning.state import Checkpoint, Progress, State, TrainResult
from tasks.core.tuning.trainable import Trained, limits_of

logger = logging.getLogger(__name__)

__all__ = ["TrainResult", "TrainSettings", "learning_rate_factor", "num_training_steps", "train"]

NAMES = Names()
Metrics = Callable[[int, dict[str, float]], None]


def train(
    trained: Trained,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainSettings,
    *,
    device: str = "cpu",
    precision: str = "float32",
    parallel: str = "layers",
    pad_id: int = 0,
    checkpoint: Checkpoint | None = None,
    on_metrics: Metrics = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    after_step: Callable[[int], dict[str, float]] = lambda step: {},
    names: Names = NAMES,
) -> TrainResult:
    """Train some tensors of a model in place; afterwards they hold the state to keep.

    Loss: mean over the answer tokens of a batch, in nats. Trained tensors are float32; with precision "bfloat16", the
    other matrices are bfloat16 and products run under autocast. Training continues from the checkpoint, with the same
    bits as without the interruption. With parallel "data" or "sharded", every process of torch's process group calls
    this with the same arguments; the first one reads and writes the checkpoint. after_step: called with the number of
    steps that are done, before they are saved; it may change what `trained` runs, and returns metrics. names: the
    settings in error messages.

    With `settings.dp_noise`, each step is one of DP-SGD; see `PrivateSteps`.

    Raises:
        InputError: when there are no training rows, or several processes tune with DP-SGD.
        DivergedError: before the optimizer step at which the loss or gradient is not finite, or when a validation loss
            or a trained tensor is not finite.
        InterruptedRun: after saving, when should_stop() is true in any process.
        EnvironmentFault: when memory is too small, also after passes were halved where that is possible.
    """
    if not examples:
        raise InputError("there are no training rows")
    prompt = prompt_ids(trained.model)
    examples, validation = prepend_ids(prompt, examples), prepend_ids(prompt, validation)
    accelerator = make_accelerator(device, precision)
    set_formats(trained, precision)
    if settings.is_private and parallel != "layers":
        raise InputError(f'tune.dp_noise with place.parallel = "{parallel}": {ONE_PROCESS}')
    team = make_team(parallel, accelerator.device)
    if not team.in_step:
        place(trained.model, EVERY if device == EVERY else accelerator.device)
    run = _Tuning(trained, examples, validation, settings, accelerator, team, pad_id, checkpoint, names)
    run.resume()
    try:
        wide = accelerator.device.type == "cpu" and precision == "bfloat16"
        with recomputing(trained.model, settings.gradient_checkpointing), float32_attention(trained.model, wide):
            _all_steps(run, on_metrics, should_stop, progress, after_step)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_fault(error):
            raise
        raise run.out_of_memory() from error
    return run.finish()


def _all_steps(
    run: "_Tuning",
    on_metrics: Metrics,
    should_stop: Callable[[], bool],
    progress: Callable[[Iterable[int]], Iterable[int]],
    after_step: Callable[[int], dict[str, float]],
) -> None:
    memory = FlatMemory() if run.accelerator.device.type == "cpu" else None
    for step in progress(range(run.progress.step, run.num_steps)):
        # Checked before each step, so that a tuning resumed after its end stops again.
        if run.is_over:
            break
        values = run.step(step) | run.validate(step) | after_step(step + 1)
        if memory:
            memory.after_step()
        # Poll before reporting: from the first poll on, a request to stop makes the stage save a checkpoint.
        stops = run.team.any(should_stop())
        on_metrics(step + 1, values)
        if stops and not run.is_over:
            run.save()
            raise InterruptedRun(f"stopped after step {step + 1} of {run.num_steps}; run again to continue")
        if (step + 1) % run.settings.checkpoint_steps == 0:
            run.save()


class _Tuning:
    def __init__(
        self,
        trained: Trained,
        examples: Sequence[Example],
        validation: Sequence[Example],
        settings: TrainSettings,
        accelerator: Any,
        team: Team,
        pad_id: int,
        checkpoint: Checkpoint | None,
        names: Names,
    ) -> None:
        self.examples, self.settings, self.checkpoint, self.names = examples, settings, checkpoint, names
        self.trained, self.accelerator, self.team = trained, accelerator, team
        self.division = Division(team, settings.max_tokens, pad_id, accelerator.device, limits_of(trained))
        torch.manual_seed(settings.seed)
        self.loss = team.wrap(trained)
        self.parameters = trained.parameters()
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=fused
        )
        self.state = State(trained, self.optimizer, team)
        self.num_steps = num_training_steps(settings, len(examples))
        self.progress = Progress()
        self.private = PrivateSteps(settings, self.parameters, len(examples)) if settings.is_private else None
        self.validation = self.division.passes(validation) if validation else None
        self._tokens, self._since, self._before = 0, time.monotonic(), 0.0

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or patience has run out."""
        patience = self.settings.patience
        return self.progress.step >= self.num_steps or (patience is not None and self.progress.num_stale >= patience)

    def step(self, step: int) -> dict[str, float]:
        """Run one optimizer step on one batch; return its metrics."""
        self.trained.model.train()
        self.team.seed(self.settings.seed, step)
        rows = [self.examples[index] for index in self._chosen(step)]
        num_tokens, num_answers = sum(row.num_tokens for row in rows), sum(len(row.answer_ids) for row in rows)
        if self.private:
            self.progress.loss = self._private_gradient(step, rows)
        else:
            self.progress.loss = self._gradient(step, rows, num_answers) / num_answers
        norm = self.team.clip(self.parameters, self.settings.clip_norm)
        rate = self.settings.learning_rate * learning_rate_factor(self.settings, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._require_finite(step, norm, rows)
        self.optimizer.step()
        self.progress.step = step + 1
        self.progress.num_tokens += num_tokens
        return {
            "loss": self.progress.loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": self._speed(num_tokens),
        }

    def validate(self, step: int) -> dict[str, float]:
        """Compute the validation loss if it is due, as it is after the last step; keep the best state."""
        every = self.settings.eval_steps
        if not (every and self.validation is not None and ((step + 1) % every == 0 or step + 1 == self.num_steps)):
            return {}
        self.trained.model.eval()
        with self.accelerator.autocast():
            own = summed_loss(self.loss, [batch for batch, counts in self.validation if counts])
            # The results of passes that only keep processes in step are discarded.
            summed_loss(self.loss, [batch for batch, counts in self.validation if not counts])
        total, count = self.team.sum(*own)
        if not math.isfinite(value := total / max(count, 1)):
            raise self._diverged(f"the validation loss is not finite after step {step + 1} of {self.num_steps}")
        self.progress.validated(value, self.trained.state())
        return {"validation_loss": value}

    def save(self) -> None:
        """Save everything on which the next step depends."""
        if self.checkpoint is None:
            return
        self.progress.seconds = self.seconds
        tensors, facts = self.state.take(self.progress)
        if self.team.rank == 0:
            self.checkpoint.save(tensors, facts)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        found = self.checkpoint.load() if self.checkpoint and self.team.rank == 0 else None
        if (saved := self.team.from_first(found)) is not None:
            self.progress = self.state.put(*saved)
            self.division.max_tokens = min(
                self.progress.max_tokens or self.settings.max_tokens, self.settings.max_tokens
            )
            self._before = self.progress.seconds
        if self.private and not self.progress.secret_key:
            self.progress.secret_key = new_key()

    @property
    def seconds(self) -> float:
        """Training time so far, including that of earlier processes."""
        return self._before + time.monotonic() - self._since

    def finish(self) -> TrainResult:
        """Load the state to keep into the model, and return the result."""
        progress = self.progress
        if progress.best:
            self.trained.load(progress.best)
        state = self.state.tuned()
        # No loss was computed after the last step, which may have made them not finite.
        for name, tensor in state.items():
            if not tensor.isfinite().all():
                raise self._diverged(f"{name} is not finite after the last step, {progress.step}")
        num_parameters = sum(parameter.numel() for parameter in self.parameters)
        return TrainResult.of(progress, self.num_steps, num_parameters, self.team.size, self.seconds, state)

    def _chosen(self, step: int) -> list[int]:
        """Return the rows of a step."""
        if self.private:
            return self.private.rows(self.progress.secret_key, step)
        return training_batch(len(self.examples), self.settings.batch_size, self.settings.seed, step)

    def _private_gradient(self, step: int, rows: Sequence[Example]) -> float:
        """Compute the gradient of a step of DP-SGD; return the mean loss of its rows in nats a token.

        The rows of a step can be none; the loss is that of the step before then.
        """
        assert self.private is not None
        backward, key = self.accelerator.backward, self.progress.secret_key
        losses = self.private.gradient(self._row_losses(rows), backward, key, step)
        if losses:
            return math.fsum(losses) / len(losses)
        return self.progress.loss if step else 0.0

    def _row_losses(self, rows: Sequence[Example]) -> Iterator[torch.Tensor]:
        """Yield the mean loss over the answer of each row, one forward pass each."""
        for row in rows:
            ((batch, _),) = self.division.passes([row])
            with self.accelerator.autocast():
                summed, _ = self.loss(batch)
            yield summed / len(row.answer_ids)

    def _gradient(self, step: int, rows: Sequence[Example], num_answers: int) -> float:
        """Compute the gradient of the mean loss over the batch's answers; return the sum of their losses in nats."""
        total, num_faults = self._try_gradient(rows, num_answers)
        if num_faults:
            self._cut_finer(step, rows)
            total, num_faults = self._try_gradient(rows, num_answers)
            if num_faults:
                raise self.out_of_memory()
        self.team.average_gradients()
        return total

    def _try_gradient(self, rows: Sequence[Example], num_answers: int) -> list[float]:
        """Run this process's passes; return the loss summed over all processes, and how many ran out of memory."""
        self.optimizer.zero_grad(set_to_none=True)
        total, fault = 0.0, False
        try:
            for batch, counts in self.division.passes(rows):
                with self.accelerator.autocast():
                    summed, _ = self.loss(batch)
                self.accelerator.backward(summed * (self.team.size * counts) / num_answers)
                total += float(summed.detach()) * counts
        except (RuntimeError, MemoryError) as error:
            # Processes that run in step cannot wait for one another to try again.
            if self.team.in_step or not is_memory_fault(error):
                raise
            fault = True
        return self.team.sum(total, fault)

    def _cut_finer(self, step: int, rows: Sequence[Example]) -> None:
        """Halve the size of forward passes from here on; tokens per step, and so the loss, stay the same."""
        if self.progress.max_tokens is not None:
            raise self.out_of_memory()
        largest = self.division.largest(rows)
        self.progress.max_tokens = self.division.max_tokens = max(1, largest // 2)
        self.progress.out_of_memory_step = step + 1
        self.optimizer.zero_grad(set_to_none=True)
        release()
        logger.warning(
            "out of memory at step %d of %d in a forward pass of %d tokens: tried again, and continued, with at most %d"
            " and accumulation; batch and loss stay as they are. A lower %s avoids it",
            *(step + 1, self.num_steps, largest, self.progress.max_tokens, self.names.max_tokens),
        )

    def _speed(self, num_tokens: int) -> float:
        self._tokens += num_tokens
        return self._tokens / max(time.monotonic() - self._since, 1e-9)

    def _require_finite(self, step: int, norm: float, rows: Sequence[Example]) -> None:
        if what := not_finite(loss=self.progress.loss, gradient=norm):
            where = f"training rows {[row.row for row in rows]}"
            raise self._diverged(f"the {what} is not finite at step {step + 1} of {self.num_steps}", where)

    def out_of_memory(self) -> EnvironmentFault:
        """Make the error for too little memory when no smaller forward pass can be tried."""
        return out_of_memory(self.names, self.progress, self.num_steps)

    def _diverged(self, what: str, where: str = "") -> DivergedError:
        return diverged(self.names, what, self.optimizer.param_groups[0]["lr"], self.progress, where)
