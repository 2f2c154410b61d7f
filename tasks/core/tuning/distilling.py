"""Knowledge distillation of an emulator's frozen blocks, as in Offsite-Tuning (arXiv 2302.04870, 3.3), for any plan.

The *teacher* is the full model, or another model of its shape. A *segment* is a run of emulator positions between two
tuned blocks, or between a tuned block and an end. With Offsite-Tuning's plan there is one segment, and the loss is the
published one.

LLEOT (ACL 2026) keeps the emulator's loss a margin H above the teacher's, so that the emulator is of little use by
itself while the gradients of what a data owner tunes stay alike, and distils behind random prompts. Its paper has two
phases and a term for the prompts; here the margin takes the place of the LM loss throughout, and prompts are random
virtual tokens in front of both models.
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
from tasks.core.blocks.soft_prompt import insert_prompt, prompt_parameters
from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.core.plan.layout import HARMONIZERS, Plan
from tasks.core.tuning.losses import AnswerLoss
from tasks.core.tuning.settings import Elevation

OFFSITE_TUNING = Elevation()


class Segment(NamedTuple):
    """(first, last) position in the emulator, and (first, last) block of the teacher that they replace."""

    emulator: tuple[int, int]
    teacher: tuple[int, int]


def segments(plan: Plan) -> list[Segment]:
    """Segments with a frozen kept block, which distillation trains.

    The teacher's part of a segment is all blocks between the same tuned ones, including removed ones.

    Raises:
        InputError: when the plan has no such segment.
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
    """Sum over rows of n times the mean of ((t - s) / rms(t))^2, where n is the number of counted positions.

    taught (t), state (s): [B, T, d]; counted: bool [B, T]. Mean and rms are over the n d values of a row, so that the
    loss of a batch does not depend on how it is cut into forward passes; for one row it is the published formula. Only
    positions that predict a token of the row are counted, as in the LM loss. Computed in float32.
    """
    weight = counted.unsqueeze(-1).float()
    wide, other = taught.float(), state.float()
    error = ((wide - other).square() * weight).sum((1, 2))
    size = (wide.square() * weight).sum((1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return (counted.sum(1) * error / size).sum()


@dataclass
class Parts:
    """Sums of the parts of the loss since the last call of `take`. margin: None where no margin is asked for."""

    lm: float = 0.0
    hidden: float = 0.0
    margin: float | None = None
    count: int = 0

    def take(self) -> dict[str, float]:
        """Return the means over tokens, and reset the sums."""
        count = max(self.count, 1)
        means = {"lm_loss": self.lm / count, "hidden_loss": self.hidden / count}
        if self.margin is not None:
            means["margin_loss"], self.margin = self.margin / count, 0.0
        self.lm, self.hidden, self.count = 0.0, 0.0, 0
        return means


class DistillingLoss(nn.Module):
    """LM loss + hidden_weight * mean of the hidden losses of all segments.

    The teacher's blocks get the same input states as the emulator's segments, and no gradient goes through them. With a
    margin H, the LM loss is replaced by the sum over rows of n |l - l_teacher - H|, with l the row's mean loss and n
    its number of predicted tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        parts_of: Sequence[Segment],
        hidden_weight: float,
        parts: Parts,
        elevation: Elevation = OFFSITE_TUNING,
    ) -> None:
        super().__init__()
        self.model = model
        self._answers, self._taught_answers = AnswerLoss(model), AnswerLoss(teacher)
        self._elevation = elevation
        parts.margin = None if elevation.margin is None else 0.0
        self._segments, self._hidden_weight, self._parts = parts_of, hidden_weight, parts
        # In a tuple, so that torch does not register it: the teacher is not trained, sharded or saved with the model.
        self._teacher = (teacher,)

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the sum of both losses over predicted tokens, and the number of these tokens."""
        if self._elevation.prompt_tokens:
            self._draw_prompt()
        with watched_runs(self.model, [segment.emulator for segment in self._segments]) as seen:
            loss, summed, count = self._lm_part(batch)
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
            if self._parts.margin is not None:
                self._parts.margin += float(loss.detach())
        return loss + self._hidden_weight * hidden, count

    def _lm_part(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Return the part of the loss beside the hidden one, the emulator's summed LM loss, and the tokens counted."""
        margin = self._elevation.margin
        if margin is None:
            summed, count = self._answers(batch)
            return summed, summed, count
        # First, so that the logits of one model at a time are in memory.
        with torch.no_grad():
            taught, _ = self._taught_answers.by_row(batch)
        own, counts = self._answers.by_row(batch)
        excess = own - taught.to(own) - margin * counts
        return excess.abs().sum(), own.sum(), int(counts.sum())

    @torch.no_grad()
    def _draw_prompt(self) -> None:
        """Draw new vectors of the virtual tokens for both models; always the same ones for validation."""
        models = (self.model, self._teacher[0])
        own, other = (next(iter(prompt_parameters(model).values())) for model in models)
        generator = None if self.model.training else torch.Generator().manual_seed(0)
        drawn = torch.randn(own.shape, generator=generator) * self._elevation.prompt_std
        for vectors in (own, other):
            vectors.copy_(drawn)

    @torch.no_grad()
    def _teach(self, batch: Batch, entered: Sequence[Tensor]) -> list[Tensor]:
        runs = [segment.teacher for segment in self._segments]
        return run_through(self._teacher[0], batch.input_ids, batch.attention_mask, runs, entered)


class FrozenBlocks:
    """The frozen kept blocks, trained to compute what the full model's blocks between the tuned ones compute.

    Their copies at other positions share their tensors; frozen copies of tuned blocks are not trained.
    keep_zeros: zero entries of matrices stay zero (for a pruned emulator).
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
        elevation: Elevation = OFFSITE_TUNING,
    ) -> None:
        """Prepare the training. precision: of the computation, including the teacher's; spread: put it on all GPUs.

        Raises:
            InputError: when no kept block is frozen, or harmonizers run beside them.
        """
        if plan.share == HARMONIZERS:
            # A segment's states would be compared without the harmonizers at its ends.
            raise InputError("distill: harmonizers stand in for removed blocks already; choose one of both")
        self.model, self.plan, self.teacher = model, plan, teacher
        self.parts = Parts()
        self._hidden_weight, self._precision = hidden_weight, precision
        self._spread, self._keep_zeros = spread, keep_zeros
        self._segments, self._elevation = segments(plan), elevation
        if elevation.prompt_tokens:
            for each in (model, teacher):
                insert_prompt(each, elevation.prompt_tokens)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters, lowest block first, each once."""
        return [parameter for _, parameter in self._named()]

    def state(self) -> dict[str, Tensor]:
        """Map `"{original block index}.{parameter name}"` to the tensor."""
        return {name: parameter.detach() for name, parameter in self._named()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            InputError: when names or shapes do not fit.
        """
        own = dict(self._named())
        wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
        if wrong := sorted((own.keys() ^ state.keys()) | set(wrong)):
            raise InputError(f"the distilled tensors are not those of this emulator: {len(wrong)}, first {wrong[0]}")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def make_loss(self) -> nn.Module:
        """Make the loss of both parts; move the teacher to the model's device, in the same data types."""
        narrow = torch.bfloat16 if self._precision == "bfloat16" else torch.float32
        for parameter in self.teacher.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.dim() < 2 else narrow)
        place(self.teacher, EVERY if self._spread else self.parameters()[0].device).eval()
        if self._keep_zeros:
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    zeros = parameter.detach() == 0
                    parameter.register_hook(lambda gradient, zeros=zeros: gradient.masked_fill(zeros, 0.0))
        given = self.model, self.teacher, self._segments, self._hidden_weight, self.parts
        return DistillingLoss(*given, self._elevation)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        blocks = get_blocks(self.model)
        sources = [source for source, _ in self.plan.layout]
        for source in self.plan.frozen:
            block = blocks[sources.index(source)]
            yield from ((f"{source}.{name}", parameter) for name, parameter in block.named_parameters())
