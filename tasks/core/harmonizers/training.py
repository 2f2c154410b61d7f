"""Train harmonizers beside a frozen model, and score its blocks: ScaleOT's dynamic LayerReplace (arXiv 2412.09812).

In every step, another choice of blocks is replaced by harmonizers, and only these are trained on the language-model
loss. Every few steps, three choices are compared on the same rows, which moves the scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import length_limits
from tasks.core.blocks.locate_blocks import get_blocks, text_config
from tasks.core.errors import DivergedError, InputError
from tasks.core.harmonizers.harmonizer import new_harmonizer
from tasks.core.harmonizers.replacing import ReplaceableBlocks
from tasks.core.harmonizers.scores import draw_choice, make_groups, updated_scores
from tasks.core.harmonizers.settings import Harmonizing
from tasks.core.tuning.losses import LossModule, mean_loss

NUM_CHOICES = 3
SCORES, KEPT = "scores", "kept"


def seeded(seed: int, step: int) -> torch.Generator:
    """Make the generator of one step, so that a checkpoint needs none of its state."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class TrainedHarmonizers:
    """The harmonizers of a model's blocks, which alone are trained, and the blocks' scores.

    scores: float64 [N] on the CPU, 0 at the start. Use in one process, whose loop calls `after_step`.
    """

    def __init__(
        self,
        model: nn.Module,
        how: Harmonizing,
        protected: Sequence[int] = (),
        *,
        rows: Sequence[Example] = (),
        max_tokens: int = 8192,
        pad_id: int = 0,
        precision: str = "float32",
    ) -> None:
        """Give the model its harmonizers, in place.

        protected: blocks that always run; rows: on which choices are compared, in passes of at most `max_tokens`;
        precision: of these passes.

        Raises:
            InputError: when fewer than two blocks are not protected.
        """
        num_blocks = len(get_blocks(model))
        candidates = [block for block in range(num_blocks) if block not in protected]
        if len(candidates) < 2:
            raise InputError(
                f"harmonizers: {len(candidates)} of {num_blocks} blocks may be replaced, since the others are tuned:"
                " tune fewer"
            )
        self.model, self._how = model, how
        self._rows, self._max_tokens, self._pad_id, self._precision = rows, max_tokens, pad_id, precision
        generator, width = torch.Generator().manual_seed(how.seed), text_config(model.config).hidden_size
        self._harmonizers = {block: new_harmonizer(width, how.rank, generator) for block in candidates}
        self._blocks = ReplaceableBlocks(model, self._harmonizers)
        self._groups = make_groups(candidates, how.group_size)
        self._loss: nn.Module | None = None
        self.scores = torch.zeros(num_blocks, dtype=torch.float64)
        self.choose(0)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters, lowest block first."""
        return list(self._named().values())

    def state(self) -> dict[str, Tensor]:
        """Map `"{block}.down"` and `"{block}.up"`, the scores, and which blocks the next step keeps to the tensors."""
        own = {name: parameter.detach() for name, parameter in self._named().items()}
        return own | {SCORES: self.scores, KEPT: torch.tensor(self._blocks.kept)}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state with exactly the names that `state` returned."""
        named = self._named()
        assert {*named, SCORES, KEPT} == state.keys(), "a state is of the same model and protected blocks"
        for name, parameter in named.items():
            parameter.copy_(state[name])
        self.scores.copy_(state[SCORES])
        self._blocks.kept = state[KEPT].tolist()

    def make_loss(self) -> nn.Module:
        """Make the loss, the cross-entropy of all tokens but the first, with the chosen blocks replaced."""
        self._loss = LossModule(self.model)
        return self._loss

    def choose(self, step: int) -> None:
        """Draw the blocks that the next step keeps. step: number of steps that are done."""
        self._blocks.kept = draw_choice(self.scores, self._groups, seeded(self._how.seed, 2 * step)).tolist()

    def after_step(self, step: int) -> dict[str, float]:
        """Update the scores where that is due, and choose the blocks of the next step; return metrics.

        step: number of steps that are done.

        Raises:
            DivergedError: when the loss of a choice is not finite.
        """
        found = self._update(step) if step % self._how.score_steps == 0 else {}
        self.choose(step)
        return found

    def _update(self, step: int) -> dict[str, float]:
        generator = seeded(self._how.seed, 2 * step + 1)
        choices = torch.stack([draw_choice(self.scores, self._groups, generator) for _ in range(NUM_CHOICES)])
        order = torch.randperm(len(self._rows), generator=generator)[: self._how.score_rows].tolist()
        batches = self._batches([self._rows[index] for index in order])
        losses = torch.tensor([self._loss_of(choice, batches) for choice in choices], dtype=torch.float64)
        if not losses.isfinite().all():
            raise DivergedError(
                f"the loss of a choice of blocks is not finite after step {step}. Lower harmonizers.learning_rate"
            )
        self.scores.copy_(updated_scores(self.scores, choices, losses, self._how.score_learning_rate))
        return {"validation_loss": float(losses.mean()), "spread_of_scores": float(self.scores.std())}

    def _batches(self, rows: Sequence[Example]) -> list[Batch]:
        device = input_device(self.model)
        cut = token_batches(lengths_of(rows), self._max_tokens, length_limits(self.model.config))
        return [collate([rows[index] for index in batch], self._pad_id).to(device) for batch in cut]

    def _loss_of(self, choice: Tensor, batches: Sequence[Batch]) -> float:
        """Return the mean loss of a choice in nats a token."""
        assert self._loss is not None, "the training loop makes the loss first"
        self.model.eval()
        self._blocks.kept = choice.tolist()
        narrow = self._precision == "bfloat16"
        with torch.autocast(input_device(self.model).type, torch.bfloat16, enabled=narrow):
            return mean_loss(self._loss, batches)

    def _named(self) -> dict[str, nn.Parameter]:
        return {
            f"{block}.{name}": parameter
            for block, harmonizer in self._harmonizers.items()
            for name, parameter in harmonizer.named_parameters()
        }
