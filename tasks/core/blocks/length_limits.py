"""Lengths at which a model rotates every position of a pass otherwise, and what a pass leaves behind of its length.

Two kinds of rotary embeddings look at the longest row of a batch, padding included, and choose once for all rows:
longrope (Phi-3.5, Phi-4-mini) takes its long factors above the length of pretraining, and dynamic NTK scaling has other
frequencies for each length above it. A row's numbers then depend on the rows beside it, unless those of a batch are all
in one group of lengths.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tasks.core.blocks.anatomy import text_config


@dataclass(frozen=True)
class LengthLimits:
    """Limits in tokens. switches: longer passes are computed in one other way; grows: each longer length in its own."""

    switches: frozenset[int] = frozenset()
    grows: frozenset[int] = frozenset()

    def group(self, length: int) -> tuple[int, int]:
        """The group of lengths that are computed alike; it never falls as the length rises."""
        above = sum(length > limit for limit in self.switches)
        return above, max(length, min(self.grows)) if self.grows else 0

    def __or__(self, other: "LengthLimits") -> "LengthLimits":
        return LengthLimits(self.switches | other.switches, self.grows | other.grows)

    def __bool__(self) -> bool:
        return bool(self.switches or self.grows)


# Of most models: a row is computed alike in every batch.
NO_LIMITS = LengthLimits()


def length_limits(config: Any) -> LengthLimits:
    """The limits of the model that a config describes, of all its kinds of blocks together."""
    text = text_config(config)
    given = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    switches, grows = set(), set()
    # Some families have one entry for each kind of attention.
    for one in (given, *(value for value in given.values() if isinstance(value, dict))):
        kind = one.get("rope_type") or one.get("type") or "default"
        if kind == "longrope":
            limit = one.get("original_max_position_embeddings")
            limit = limit or getattr(text, "original_max_position_embeddings", None)
            switches.add(int(limit or text.max_position_embeddings))
        elif "dynamic" in kind:
            grows.add(int(text.max_position_embeddings))
    return LengthLimits(frozenset(switches), frozenset(grows))


def forget_lengths(model: Any) -> None:
    """Put the frequencies of dynamic NTK scaling back to those of short rows, as after loading.

    They are kept for the longest pass so far, and are then used for shorter ones as well. Longrope chooses anew in
    each pass.
    """
    if not length_limits(model.config).grows:
        return
    for module in model.modules():
        if hasattr(module, "original_max_seq_len") and hasattr(module, "rope_type"):
            _reset(module)


def _reset(rotary: nn.Module) -> None:
    # A rotary module for several kinds of attention has each of these names with the kind in front.
    for name in [name for name in vars(rotary) if name.endswith("max_seq_len_cached")]:
        setattr(rotary, name, rotary.original_max_seq_len)
    for name, now in list(rotary.named_buffers(recurse=False)):
        prefix, found, ending = name.rpartition("inv_freq")
        original = getattr(rotary, f"{prefix}original_inv_freq", None)
        if found and not ending and not prefix.endswith("original_") and isinstance(original, torch.Tensor):
            rotary.register_buffer(name, original.to(now.device), persistent=False)
