"""What a training changes in a model, and which loss it follows: all that the loop in `training.py` knows of either."""

from functools import reduce
from operator import or_
from typing import Protocol

import torch
from torch import Tensor, nn

from tasks.core.blocks.length_limits import LengthLimits, length_limits
from tasks.core.blocks.surgery import load_tuned, tuned_parameters, tuned_state
from tasks.core.plan.layout import Plan
from tasks.core.tuning.losses import LossModule
from tasks.core.tuning.method import Variant
from tasks.core.tuning.parts import insert_parts, part_parameters


class Trained(Protocol):
    """A model, and which of its tensors are trained.

    model: with all tensors that are trained as parameters of it; it is what is moved, put in train and eval mode, and
    sharded by its blocks. A tensor may be at several places of it as the same parameter object.
    """

    model: nn.Module

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, each once, always in the same order. Asked for again after a model was sharded."""

    def state(self) -> dict[str, Tensor]:
        """What is kept of the training, by name: the memory of the parameters, not copies."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Write what `state` gave into the model in place."""

    def make_loss(self) -> nn.Module:
        """A module batch -> (summed loss in nats, number of answer tokens) that runs `model`.

        Made once, when the model has its number formats and its place (but is not sharded yet).
        """


def limits_of(trained: Trained) -> LengthLimits:
    """Length limits of the model, and of the teacher that runs the same batches where there is one."""
    models = [trained.model, *(teacher for teacher in [getattr(trained, "teacher", None)] if teacher is not None)]
    return reduce(or_, [length_limits(model.config) for model in models])


class TunedBlocks:
    """The tuned blocks of an emulator, whole, trained on answers."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.plan = model, plan

    def parameters(self) -> list[nn.Parameter]:
        """Lowest block first."""
        return tuned_parameters(self.model, self.plan)

    def state(self) -> dict[str, Tensor]:
        """`"{original block index}.{parameter name}"` to tensor."""
        return tuned_state(self.model, self.plan)

    def load(self, state: dict[str, Tensor]) -> None:
        """InputError if names or shapes misfit."""
        load_tuned(self.model, state, self.plan)

    def make_loss(self) -> nn.Module:
        """Cross-entropy of answer tokens."""
        return LossModule(self.model)


class TrainedParts:
    """What a variant trains of an emulator, on answers. It is put into `model`, in place."""

    def __init__(self, model: nn.Module, plan: Plan, variant: Variant, seed: int) -> None:
        self.model, self.plan, self.variant = model, plan, variant
        # The first values of factors and adapters are a function of the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            insert_parts(model, plan, variant)

    def parameters(self) -> list[nn.Parameter]:
        """Lowest block first, the head last."""
        return list(self._named().values())

    def state(self) -> dict[str, Tensor]:
        """`"{original block index}.{name}"` and `"lm_head.{name}"` to tensor."""
        return {name: parameter.detach() for name, parameter in self._named().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Exactly the names that `state` gave."""
        named = self._named()
        assert named.keys() == state.keys(), "a state is of the same variant and plan"
        for name, parameter in named.items():
            parameter.copy_(state[name])

    def make_loss(self) -> nn.Module:
        """Cross-entropy of answer tokens."""
        return LossModule(self.model)

    def _named(self) -> dict[str, nn.Parameter]:
        return part_parameters(self.model, self.plan, self.variant)


def make_trained(model: nn.Module, plan: Plan, variant: Variant, seed: int = 0) -> Trained:
    """What `variant` trains of the emulator `model`, which gets the parts it lacks. InputError where it cannot."""
    variant.require_something(plan)
    return TunedBlocks(model, plan) if variant.is_default else TrainedParts(model, plan, variant, seed)
