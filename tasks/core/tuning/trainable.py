"""Trained tensors of a model and their loss: the interface between them and the loop in `train.py`."""

from functools import reduce
from operator import or_
from typing import Protocol

import torch
from torch import Tensor, nn

from tasks.core.blocks.length_limits import LengthLimits, length_limits
from tasks.core.blocks.surgery import load_tuned, tuned_parameters, tuned_state
from tasks.core.plan.layout import Plan
from tasks.core.tuning.losses import LossModule
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.parts import insert_parts, part_parameters


class Trained(Protocol):
    """A model and those of its tensors that are trained.

    model: has all trained tensors as parameters; the loop moves it, sets its train and eval mode, and shards it by its
    blocks. A tensor may be at several places in it as the same parameter object.
    """

    model: nn.Module

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters, each once, always in the same order; called again after sharding."""

    def state(self) -> dict[str, Tensor]:
        """Return the trained tensors to keep, by name: the memory of the parameters, not copies."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Write a state that `state` returned into the model, in place."""

    def make_loss(self) -> nn.Module:
        """Make a module batch -> (summed loss in nats, number of answer tokens) that runs `model`.

        Called once, when the model has its data types and its device, and its blocks may be sharded.
        """


def limits_of(trained: Trained) -> LengthLimits:
    """Length limits of the model, and of the teacher that runs the same batches if there is one."""
    models = [trained.model, *(teacher for teacher in [getattr(trained, "teacher", None)] if teacher is not None)]
    return reduce(or_, [length_limits(model.config) for model in models])


class TunedBlocks:
    """The whole tuned blocks of an emulator, trained on answers."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.plan = model, plan

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters, lowest block first."""
        return tuned_parameters(self.model, self.plan)

    def state(self) -> dict[str, Tensor]:
        """Map `"{original block index}.{parameter name}"` to the tensor."""
        return tuned_state(self.model, self.plan)

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            InputError: when names or shapes do not fit.
        """
        load_tuned(self.model, state, self.plan)

    def make_loss(self) -> nn.Module:
        """Make the loss, the cross-entropy of answer tokens."""
        return LossModule(self.model)


class TrainedParts:
    """The tensors of an emulator that a variant trains, on answers; missing ones are inserted in place."""

    def __init__(self, model: nn.Module, plan: Plan, variant: TuningMethod, seed: int) -> None:
        self.model, self.plan, self.variant = model, plan, variant
        # The initial values of factors and adapters depend on the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            insert_parts(model, plan, variant)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters, lowest block first, the head last."""
        return list(self._named().values())

    def state(self) -> dict[str, Tensor]:
        """Map `"{original block index}.{name}"` and `"lm_head.{name}"` to the tensor."""
        return {name: parameter.detach() for name, parameter in self._named().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state with exactly the names that `state` returned."""
        named = self._named()
        assert named.keys() == state.keys(), "a state is of the same variant and plan"
        for name, parameter in named.items():
            parameter.copy_(state[name])

    def make_loss(self) -> nn.Module:
        """Make the loss, the cross-entropy of answer tokens."""
        return LossModule(self.model)

    def _named(self) -> dict[str, nn.Parameter]:
        return part_parameters(self.model, self.plan, self.variant)


def make_trained(model: nn.Module, plan: Plan, variant: TuningMethod, seed: int = 0) -> Trained:
    """Select the tensors of the emulator `model` that `variant` trains, and insert those that it lacks.

    Raises:
        InputError: when the plan or the model has nothing that the variant trains.
    """
    variant.require_something(plan)
    return TunedBlocks(model, plan) if variant.is_default else TrainedParts(model, plan, variant, seed)
