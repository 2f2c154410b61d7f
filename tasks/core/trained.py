"""What a training changes in a model, and which loss it follows: all that the loop in `training.py` knows of either."""

from typing import Protocol

from torch import Tensor, nn

from tasks.core.blocks import load_tuned, tuned_parameters, tuned_state
from tasks.core.losses import LossModule
from tasks.core.plan import Plan


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
