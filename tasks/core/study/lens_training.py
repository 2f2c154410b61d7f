"""Training of a tuned lens (arXiv 2303.08112, section 3): KL from the model's output to every block's lens.

The model is only read. What is summed up is the KL at the positions that predict an answer token, in nats, as a mean
over blocks; each block's translator sees its own block's part alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch
from tasks.core.errors import InputError
from tasks.core.study.divergences import kl_loss, log_probabilities, positions_at_once
from tasks.core.study.lens import Lens, make_lens, predicting, read_out, states_at

# Numbers in one block's distributions at some positions, 64 MiB in float32; a gradient takes about six of these.
STREAMED_NUMBERS = 1 << 24


class LensLoss(nn.Module):
    """batch -> (sum of KL(output || lens) over positions, mean over blocks, in nats; number of positions)."""

    def __init__(self, model: nn.Module, lens: Lens) -> None:
        super().__init__()
        self.model, self.lens = model, lens
        self._read = read_out(model)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """InputError names what is not finite of the model; what is not of the lens is in the sum."""
        # Its output is the target, and dropout would blur it.
        self.model.eval()
        with torch.no_grad():
            *states, final = states_at(self.model, batch, predicting(batch))
        translated = torch.stack([self.lens(block, state) for block, state in enumerate(states)])
        return _StreamedKl.apply(translated, final, self._read) / len(states), len(final)


class TrainedLens:
    """The translators of a model's blocks, trained to say what the model says in the end. See `Trained`."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.lens = model, make_lens(model)
        # A part of the model, so that it goes where the model goes, and is checked and saved as its tensors are.
        model.add_module("tuned_lens", self.lens)

    def parameters(self) -> list[nn.Parameter]:
        """All weights, all biases."""
        return list(self.lens.parameters())

    def state(self) -> dict[str, Tensor]:
        """`weight` [N-1, d, d], `bias` [N-1, d]."""
        return {name: parameter.detach() for name, parameter in self.lens.named_parameters()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Exactly what `state` gave."""
        load_state(self.lens, state)

    def make_loss(self) -> nn.Module:
        """KL to the model's output."""
        return LensLoss(self.model, self.lens)


@torch.no_grad()
def load_state(lens: Lens, state: dict[str, Tensor]) -> None:
    """Write `weight` and `bias` into a lens in place. InputError if names or shapes misfit."""
    shapes = {name: tuple(parameter.shape) for name, parameter in lens.named_parameters()}
    if shapes != (found := {name: tuple(tensor.shape) for name, tensor in state.items()}):
        raise InputError(f"these tensors are no lens of this model: expected {shapes}, found {found}")
    for name, parameter in lens.named_parameters():
        parameter.copy_(state[name])


class _StreamedKl(torch.autograd.Function):
    """Sum of KL(output || lens) over blocks and positions, with the gradient taken along on the way.

    A vocabulary of 150,000 at 8,000 positions is five gigabytes a block: so the distributions of some positions of one
    block exist at a time, and what is kept is the gradient with respect to the translated states.
    """

    @staticmethod
    def forward(ctx: Any, translated: Tensor, final: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """translated: [N-1, M, d]; final: [M, d]."""
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
        """The gradient is that of a sum: it only scales."""
        return ctx.saved_tensors[0] * outer[0], None, None
