"""Training of a tuned lens (arXiv 2303.08112, section 3): KL from the model's output to every block's lens.

The model does not change. The loss is the KL at the positions that predict an answer token, in nats, summed over
positions and averaged over blocks; each translator gets gradients only from the part of its own block.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch
from tasks.core.errors import InputError
from tasks.core.study.divergences import kl_loss, log_probabilities, positions_at_once
from tasks.core.study.lens import Lens, make_lens, predicting, read_out, states_at

# Elements of one block's distributions at the positions of a step, 64 MiB in float32; a gradient takes about six times.
STREAMED_NUMBERS = 1 << 24


class LensLoss(nn.Module):
    """Loss of a lens: batch -> (sum of KL(output || lens) over positions, mean over blocks, in nats; num positions)."""

    def __init__(self, model: nn.Module, lens: Lens) -> None:
        super().__init__()
        self.model, self.lens = model, lens
        self._read = read_out(model)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Compute the loss of a batch; a value of the lens that is not finite makes the sum not finite.

        Raises:
            InputError: when a value of the model is not finite; the message names it.
        """
        # The model's output is the target, and dropout would add noise to it.
        self.model.eval()
        with torch.no_grad():
            *states, final = states_at(self.model, batch, predicting(batch))
        translated = torch.stack([self.lens(block, state) for block, state in enumerate(states)])
        return _StreamedKl.apply(translated, final, self._read) / len(states), len(final)


class TrainedLens:
    """The translators of a model's blocks, trained to predict the model's output. See `Trained`."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.lens = model, make_lens(model)
        # As a submodule, the lens moves with the model, and is checked and saved like the model's tensors.
        model.add_module("tuned_lens", self.lens)

    def parameters(self) -> list[nn.Parameter]:
        """Return the weight and the bias of all translators."""
        return list(self.lens.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return `weight` [N-1, d, d] and `bias` [N-1, d]."""
        return {name: parameter.detach() for name, parameter in self.lens.named_parameters()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            InputError: when names or shapes do not fit.
        """
        load_state(self.lens, state)

    def make_loss(self) -> nn.Module:
        """Make the loss, the KL to the model's output."""
        return LensLoss(self.model, self.lens)


@torch.no_grad()
def load_state(lens: Lens, state: dict[str, Tensor]) -> None:
    """Write `weight` and `bias` into a lens, in place.

    Raises:
        InputError: when names or shapes do not fit.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in lens.named_parameters()}
    if shapes != (found := {name: tuple(tensor.shape) for name, tensor in state.items()}):
        raise InputError(f"these tensors are no lens of this model: expected {shapes}, found {found}")
    for name, parameter in lens.named_parameters():
        parameter.copy_(state[name])


class _StreamedKl(torch.autograd.Function):
    """Sum of KL(output || lens) over blocks and positions, with the gradient computed in the forward pass.

    A vocabulary of 150,000 at 8,000 positions takes five gigabytes per block. So only the distributions of some
    positions of one block are in memory at a time, and only the gradient by the translated states is kept.
    """

    @staticmethod
    def forward(ctx: Any, translated: Tensor, final: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the sum. translated: [N-1, M, d]; final: [M, d]."""
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(translated)
        total = torch.zeros((), device=translated.device)
        step = positions_at_once(1, read(final[:1]).shape[-1], STREAMED_NUMBERS)
        for start in range(0, len(final), step):
            part = slice(start, start + step)
            target = log_probabilities(read(final[part]), "the model")
            for block in range(len(translated)):
                with torch.set_grad_enabled(wanted):
                    state = translated[block, part].detach().requires_grad_(wanted)
                    loss = kl_loss(target, read(state).float().log_softmax(-1)).sum()
                if wanted:
                    gradient[block, part] = torch.autograd.grad(loss, state)[0]
                total += loss.detach().to(total.device)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        """Scale the saved gradient by the outer gradient, as the output is a sum."""
        return ctx.saved_tensors[0] * outer[0], None, None
