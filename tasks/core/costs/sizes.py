"""How many parameters a model has where, and how many of them an emulator gives away, told from its config alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from tasks.core.blocks.anatomy import get_blocks, skeleton


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters: of each block, and of all that is no block (embeddings, final norm, head)."""

    blocks: tuple[int, ...]
    outside: int

    @property
    def total(self) -> int:
        """Parameters of the full model, tied ones counted once."""
        return self.outside + sum(self.blocks)

    def disclosed(self, kept: Sequence[int]) -> float:
        """Share of the full model's parameters in an emulator of these blocks, each counted once; in (0, 1].

        All that is no block is given away too. A block that several positions share is stored, and counted, once.
        """
        return (self.outside + sum(self.blocks[index] for index in set(kept))) / self.total

    def least(self, num_kept: int) -> float:
        """The least share that a plan with this many blocks discloses: that of the smallest blocks."""
        return (self.outside + sum(sorted(self.blocks)[:num_kept])) / self.total


def model_sizes(config: PreTrainedConfig) -> Sizes:
    """Sizes of the model that a config describes; it is laid out without memory, and no weight is read."""
    model = skeleton(config)
    blocks = [{id(parameter): parameter.numel() for parameter in block.parameters()} for block in get_blocks(model)]
    # `parameters()` gives a tied tensor once.
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes = tuple(sum(block.values()) for block in blocks)
    return Sizes(sizes, total - sum(sizes))
