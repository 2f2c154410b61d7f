"""Numbers of parameters of a model by block, and the share that an emulator discloses, from its config alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from tasks.core.blocks.locate_blocks import get_blocks, skeleton


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters of each block, and of all modules outside the blocks (embeddings, final norm, head)."""

    blocks: tuple[int, ...]
    outside: int

    @property
    def total(self) -> int:
        """Number of parameters of the full model; tied ones count once."""
        return self.outside + sum(self.blocks)

    def disclosed(self, kept: Sequence[int]) -> float:
        """Share of the full model's parameters in an emulator of these blocks; in (0, 1].

        Everything outside the blocks is disclosed too. A block that several positions share is stored and counted once.
        """
        return (self.outside + sum(self.blocks[index] for index in set(kept))) / self.total

    def least(self, num_kept: int) -> float:
        """Smallest share that a plan with this many kept blocks can disclose: that of the smallest blocks."""
        return (self.outside + sum(sorted(self.blocks)[:num_kept])) / self.total


def model_sizes(config: PreTrainedConfig) -> Sizes:
    """Sizes of the model that a config describes, built on the meta device without reading weights."""
    model = skeleton(config)
    blocks = [{id(parameter): parameter.numel() for parameter in block.parameters()} for block in get_blocks(model)]
    # `parameters()` returns a tied tensor once.
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes = tuple(sum(block.values()) for block in blocks)
    return Sizes(sizes, total - sum(sizes))
