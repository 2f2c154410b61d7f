"""State of a tuning as saved in a checkpoint: every number on which the next step depends."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.core.tuning.parallel import Team
from tasks.core.tuning.trainable import Trained

logger = logging.getLogger(__name__)


class Checkpoint(Protocol):
    """Storage for the state of a tuning, which is saved completely or not at all."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and facts of the last save, or None."""

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the last save, atomically."""


@dataclass
class Progress:
    """Progress of a tuning.

    max_tokens: padded tokens of a forward pass after running out of memory with the value of the settings, else None.
    num_stale: validations in a row that were not better than the best. seconds: training time until the last save,
    including that of earlier processes. secret_key: of DP-SGD's random numbers, else empty.
    """

    step: int = 0
    loss: float = math.nan
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    saved_step: int = 0
    num_tokens: int = 0
    max_tokens: int | None = None
    out_of_memory_step: int | None = None
    num_stale: int = 0
    seconds: float = 0.0
    secret_key: str = field(default="", repr=False)

    def validated(self, value: float, state: dict[str, Tensor]) -> None:
        """Record the validation loss after the last step; keep a copy of the best state."""
        if value < self.best_loss:
            self.best_loss, self.best_step, self.num_stale = value, self.step, 0
            self.best = {name: tensor.clone() for name, tensor in state.items()}
        else:
            self.num_stale += 1


@dataclass
class TrainResult:
    """Result of a tuning.

    best_step: the step whose state was kept; num_steps: number of steps done.
    stopped_early: True when patience ended the tuning before the last step, else None.
    max_tokens: padded tokens of a forward pass from out_of_memory_step on, if memory was too small for the settings.
    state: the kept trained tensors, as from `Trained.state`; whole only in the first of several processes.
    """

    num_steps: int
    final_loss: float
    best_step: int
    best_validation_loss: float | None
    num_parameters: int
    num_threads: int
    num_processes: int
    seconds: float
    num_tokens: int
    out_of_memory_step: int | None = None
    max_tokens: int | None = None
    stopped_early: bool | None = None
    state: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(
        progress: Progress,
        num_steps: int,
        num_parameters: int,
        num_processes: int,
        seconds: float,
        state: dict[str, Tensor],
    ) -> "TrainResult":
        """Make the result from the progress.

        num_steps: number of planned steps; seconds: training time, without the lost time of killed processes.
        """
        return TrainResult(
            num_steps=progress.step,
            final_loss=progress.loss,
            best_step=progress.best_step if progress.best else progress.step,
            best_validation_loss=progress.best_loss if progress.best else None,
            num_parameters=num_parameters,
            num_threads=torch.get_num_threads(),
            num_processes=num_processes,
            seconds=round(seconds, 3),
            num_tokens=progress.num_tokens,
            out_of_memory_step=progress.out_of_memory_step,
            max_tokens=progress.max_tokens,
            stopped_early=True if progress.step < num_steps else None,
            state=state,
        )

    def summary(self) -> dict[str, Any]:
        """Summarise the result as a small JSON object, without the state."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "state"}


class State:
    """The trained tensors of a model and the optimizer's moments, to be saved and restored by one or more processes."""

    def __init__(self, trained: Trained, optimizer: torch.optim.Optimizer, team: Team) -> None:
        self.trained, self.optimizer, self.team = trained, optimizer, team

    def tuned(self) -> dict[str, Tensor]:
        """Return the trained tensors as whole tensors."""
        return {name: self.team.whole(tensor) for name, tensor in self.trained.state().items()}

    def take(self, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts for a checkpoint. Every process must call this; the first gets whole tensors."""
        tensors = {f"tuned/{name}": tensor for name, tensor in self.tuned().items()}
        tensors |= {f"best/{name}": self.team.whole(tensor) for name, tensor in progress.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": self.team.whole(value) for name, value in moments.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        for index, random_state in enumerate(_cuda_random_states()):
            tensors[f"random/cuda/{index}"] = random_state
        progress.saved_step = progress.step
        facts = {name: value for name, value in vars(progress).items() if name != "best"}
        return tensors, facts | {"num_threads": torch.get_num_threads(), "num_processes": self.team.size}

    def put(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Progress:
        """Restore everything from a checkpoint, and return the progress at that time."""
        own = self.trained.state()
        self.trained.load(self._divided(own, under("tuned/", tensors)))
        parameters = self.trained.parameters()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in under("optimizer/", tensors).items():
            index, _, moment = name.partition("/")
            moments.setdefault(int(index), {})[moment] = self.team.like(parameters[int(index)], value)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["random/cpu"])
        _restore_cuda_random_states(under("random/cuda/", tensors))
        self._say_what_is_different(facts)
        known = {name: value for name, value in facts.items() if name in Progress.__dataclass_fields__}
        return Progress(**known, best=self._divided(own, under("best/", tensors)))

    def _divided(self, own: dict[str, Tensor], whole: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.team.like(own[name], value) if name in own else value for name, value in whole.items()}

    def _say_what_is_different(self, facts: dict[str, Any]) -> None:
        here = {"threads": torch.get_num_threads(), "processes": self.team.size}
        for what, number in here.items():
            if (was := facts.get(f"num_{what}", number)) != number:
                logger.warning(
                    "the checkpoint was written with %d %s, here are %d: not the same bits", was, what, number
                )


def _cuda_random_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore_cuda_random_states(saved: dict[str, Tensor]) -> None:
    """Restore the random states of the available devices; warn when their number differs, as the bits will differ."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(saved) != here:
        logger.warning("the checkpoint was written with %d GPUs, here are %d: not the same bits", len(saved), here)
    for index, random_state in saved.items():
        if int(index) < here:
            torch.cuda.set_rng_state(random_state, int(index))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
