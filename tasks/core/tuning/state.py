"""How far a tuning is, as a checkpoint holds it: every number that the next step depends on."""

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
    """Where progress is kept: all of it or none."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last save, or None."""

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace what was saved before, atomically."""


@dataclass
class Progress:
    """max_tokens: of a forward pass, once memory did not suffice for what the settings say.

    num_stale: validations in a row that were no better than the best. seconds: until the last save, of all processes
    that came after one another.
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

    def validated(self, value: float, state: dict[str, Tensor]) -> None:
        """Take in the validation loss behind the last step; of the best state a copy is kept."""
        if value < self.best_loss:
            self.best_loss, self.best_step, self.num_stale = value, self.step, 0
            self.best = {name: tensor.clone() for name, tensor in state.items()}
        else:
            self.num_stale += 1


@dataclass
class TrainResult:
    """How a tuning went. best_step is the step whose state was kept, num_steps those that were done.

    stopped_early: whether patience ended it before the last step.

    max_tokens: of a forward pass behind out_of_memory_step, where memory did not suffice for what the settings say.
    state: the trained tensors that were kept, as from `Trained.state`; whole in the first process of several.
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
        """num_steps: those that were planned; seconds: from the first step, without what a killed process lost."""
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
        """Small JSON about it."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "state"}


class State:
    """The trained tensors of a model and the optimizer's moments, taken out whole and put back, by one or several."""

    def __init__(self, trained: Trained, optimizer: torch.optim.Optimizer, team: Team) -> None:
        self.trained, self.optimizer, self.team = trained, optimizer, team

    def tuned(self) -> dict[str, Tensor]:
        """The trained tensors, whole."""
        return {name: self.team.whole(tensor) for name, tensor in self.trained.state().items()}

    def take(self, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a checkpoint. Every process has to ask; what the first one gets is whole."""
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
        """Everything as it was when it was taken out; the progress at that time."""
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
    """Of the devices that are here; a run that goes on elsewhere ends with other bits, and says so."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(saved) != here:
        logger.warning("the checkpoint was written with %d GPUs, here are %d: not the same bits", len(saved), here)
    for index, random_state in saved.items():
        if int(index) < here:
            torch.cuda.set_rng_state(random_state, int(index))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is named with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
