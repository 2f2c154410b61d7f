"""Knowledge distillation of an emulator's frozen blocks: Offsite-Tuning's (arXiv 2302.04870, section 3.3) for any plan.

Words: the *teacher* is the full model, or one of its shape. A *segment* is a run of emulator positions between two
tuned blocks, or between a tuned block and an end. Offsite-Tuning's plan has one, and then this is its published loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tasks.core.batching import IGNORED, Batch
from tasks.core.blocks.devices import EVERY, place
from tasks.core.blocks.partial_passes import run_through, watched_runs
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.losses import AnswerLoss


class Segment(NamedTuple):
    """(first, last) position in the emulator, and (first, last) block of the teacher that stood there."""

    emulator: tuple[int, int]
    teacher: tuple[int, int]


def segments(plan: Plan) -> list[Segment]:
    """The segments that hold a block that is trained. InputError if there is none.

    The teacher's part is all blocks between the same tuned ones, removed ones included.
    """
    tuned = [(position, source) for position, (source, is_tuned) in enumerate(plan.layout) if is_tuned]
    edges = [(-1, -1), *tuned, (len(plan.layout), plan.num_blocks)]
    found = [
        Segment((before + 1, after - 1), (low + 1, high - 1))
        for (before, low), (after, high) in pairwise(edges)
        if any(source in plan.frozen for source, _ in plan.layout[before + 1 : after])
    ]
    if not found:
        raise InputError("distill: the plan tunes every kept block, so that none is left to be distilled")
    return found


def hidden_loss(taught: Tensor, state: Tensor, counted: Tensor) -> Tensor:
    """Sum over rows of n times the mean of ((t - s) / rms(t))^2, n the number of positions that count.

    taught (t), state (s): [B, T, d]; counted: bool [B, T]. Mean and rms are over the n d values of a row, so that a
    batch's loss does not depend on how it is cut into forward passes; of one row it is the published formula. Only
    positions that predict a token of the row count, as in the LM loss. Computed in float32.
    """
    weight = counted.unsqueeze(-1).float()
    wide, other = taught.float(), state.float()
    error = ((wide - other).square() * weight).sum((1, 2))
    size = (wide.square() * weight).sum((1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return (counted.sum(1) * error / size).sum()


@dataclass
class Parts:
    """Sums of the two parts of the loss since they were last asked for."""

    lm: float = 0.0
    hidden: float = 0.0
    count: int = 0

    def take(self) -> dict[str, float]:
        """Their means over tokens, and begin anew."""
        count = max(self.count, 1)
        means = {"lm_loss": self.lm / count, "hidden_loss": self.hidden / count}
        self.lm, self.hidden, self.count = 0.0, 0.0, 0
        return means


class DistillingLoss(nn.Module):
    """LM loss + hidden_weight * mean of the hidden losses of all segments.

    The teacher's blocks run on the emulator's own state, as the emulator's do, and no gradient goes through them.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, parts_of: Sequence[Segment], hidden_weight: float, parts: Parts
    ) -> None:
        super().__init__()
        self.model = model
        self._answers = AnswerLoss(model)
        self._segments, self._hidden_weight, self._parts = parts_of, hidden_weight, parts
        # Out of sight of the module tree: it is neither trained nor sharded nor saved with the model.
        self._teacher = (teacher,)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Sum over predicted tokens of both losses, and the number of these tokens."""
        with watched_runs(self.model, [segment.emulator for segment in self._segments]) as seen:
            summed, count = self._answers(batch)
        taught = self._teach(batch, [entered for entered, _ in seen])
        counted = torch.zeros_like(batch.labels, dtype=torch.bool)
        counted[:, :-1] = batch.labels[:, 1:] != IGNORED
        losses = [
            hidden_loss(target.to(state.device), state, counted.to(state.device)).to(summed.device)
            for target, (_, state) in zip(taught, seen, strict=True)
        ]
        hidden = torch.stack(losses).mean()
        if torch.is_grad_enabled():
            self._parts.lm += float(summed.detach())
            self._parts.hidden += float(hidden.detach())
            self._parts.count += count
        return summed + self._hidden_weight * hidden, count

    @torch.no_grad()
    def _teach(self, batch: Batch, entered: Sequence[Tensor]) -> list[Tensor]:
        runs = [segment.teacher for segment in self._segments]
        return run_through(self._teacher[0], batch.input_ids, batch.attention_mask, runs, entered)


class FrozenBlocks:
    """The kept blocks that tuning leaves as they are, trained to do what the blocks between the tuned ones did.

    Copies of them at other positions share their tensors; frozen copies of tuned blocks are not trained.
    keep_zeros: entries of matrices that are zero stay zero (those of a pruned emulator).
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        teacher: nn.Module,
        hidden_weight: float,
        *,
        precision: str = "float32",
        spread: bool = False,
        keep_zeros: bool = False,
    ) -> None:
        """precision: of computing, for the teacher too. spread: put the teacher on every GPU, as the model is."""
        self.model, self.plan, self.teacher = model, plan, teacher
        self.parts = Parts()
        self._hidden_weight, self._precision = hidden_weight, precision
        self._spread, self._keep_zeros = spread, keep_zeros
        self._segments = segments(plan)

    def parameters(self) -> list[nn.Parameter]:
        """Lowest block first, each once."""
        return [parameter for _, parameter in self._named()]

    def state(self) -> dict[str, Tensor]:
        """`"{original block index}.{parameter name}"` to tensor."""
        return {name: parameter.detach() for name, parameter in self._named()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """InputError if names or shapes misfit."""
        own = dict(self._named())
        wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
        if wrong := sorted((own.keys() ^ state.keys()) | set(wrong)):
            raise InputError(f"the distilled tensors are not those of this emulator: {len(wrong)}, first {wrong[0]}")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def make_loss(self) -> nn.Module:
        """The loss of both parts; the teacher comes to where the model is, in the same number formats."""
        narrow = torch.bfloat16 if self._precision == "bfloat16" else torch.float32
        for parameter in self.teacher.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.dim() < 2 else narrow)
        place(self.teacher, EVERY if self._spread else self.parameters()[0].device).eval()
        if self._keep_zeros:
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    zeros = parameter.detach() == 0
                    parameter.register_hook(lambda gradient, zeros=zeros: gradient.masked_fill(zeros, 0.0))
        return DistillingLoss(self.model, self.teacher, self._segments, self._hidden_weight, self.parts)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        blocks = get_blocks(self.model)
        sources = [source for source, _ in self.plan.layout]
        for source in self.plan.frozen:
            block = blocks[sources.index(source)]
            yield from ((f"{source}.{name}", parameter) for name, parameter in block.named_parameters())
