"""Lengths above which a model changes its rotary embeddings, and how to reset the state that long passes leave behind.

Two kinds of rotary embeddings depend on the longest row of a batch, including padding, and apply to all rows: longrope
(Phi-3.5, Phi-4-mini) uses its long factors above the length of pretraining, and dynamic NTK scaling uses other
frequencies for each length above it. The results for a row then depend on the other rows of its batch, unless all rows
of a batch are in one group of lengths.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tasks.core.blocks.locate_blocks import text_config


@dataclass(frozen=True)
class LengthLimits:
    """Limits in tokens. switches: all longer passes share other factors; grows: each longer length has its own."""

    switches: frozenset[int] = frozenset()
    grows: frozenset[int] = frozenset()

    def group(self, length: int) -> tuple[int, int]:
        """Group of lengths that are computed in the same way; it never decreases with the length."""
        above = sum(length > limit for limit in self.switches)
        return above, max(length, min(self.grows)) if self.grows else 0

    def __or__(self, other: "LengthLimits") -> "LengthLimits":
        return LengthLimits(self.switches | other.switches, self.grows | other.grows)

    def __bool__(self) -> bool:
        return bool(self.switches or self.grows)


# Most models have no limits: a row is computed in the same way in every batch.
NO_LIMITS = LengthLimits()


def length_limits(config: Any) -> LengthLimits:
    """Limits of the model that a config describes, over all its kinds of blocks."""
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
    """Reset the frequencies of dynamic NTK scaling to those of short rows, as after loading.

    The model keeps the frequencies of the longest pass so far and also uses them for shorter ones. Longrope chooses its
    factors anew in each pass.
    """
    if not length_limits(model.config).grows:
        return
    for module in model.modules():
        if hasattr(module, "original_max_seq_len") and hasattr(module, "rope_type"):
            _reset(module)


def _reset(rotary: nn.Module) -> None:
    # In a rotary module for several kinds of attention, the kind is a prefix of each of these names.
    for name in [name for name in vars(rotary) if name.endswith("max_seq_len_cached")]:
        setattr(rotary, name, rotary.original_max_seq_len)
    for name, now in list(rotary.named_buffers(recurse=False)):
        prefix, found, ending = name.rpartition("inv_freq")
        original = getattr(rotary, f"{prefix}original_inv_freq", None)
        if found and not ending and not prefix.endswith("original_") and isinstance(original, torch.Tensor):
            rotary.register_buffer(name, original.to(now.device), persistent=False)
