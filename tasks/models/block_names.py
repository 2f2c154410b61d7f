"""Find the block that a tensor on disk belongs to by the tensor's name."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import InputError

# A name up to its first number: later numbers count inside a block (experts).
NUMBERED = re.compile(r"(?P<prefix>(?:[^.]*[^.\d][^.]*\.)*)(?P<index>\d+)\.(?P<rest>.+)")


class InBlock(NamedTuple):
    """A tensor inside a block: the block's number in its folder, and the name within the block."""

    block: int
    rest: str


class BlockNames:
    """The names of a folder's tensors, with the prefix of the block list.

    Raises:
        InputError: unless exactly one numbered list has `num_blocks` entries.
    """

    def __init__(self, names: Iterable[str], num_blocks: int, folder: Path) -> None:
        self._numbered = {name: match for name in names if (match := NUMBERED.fullmatch(name))}
        self.prefix = _block_prefix(self._numbered.values(), num_blocks, folder)

    def place(self, name: str) -> InBlock | None:
        """Return the block of a tensor and its name within it; None for a tensor outside the blocks."""
        match = self._numbered.get(name)
        return InBlock(int(match["index"]), match["rest"]) if match and match["prefix"] == self.prefix else None

    def name(self, index: int, rest: str) -> str:
        """Return the name of a tensor of a block."""
        return f"{self.prefix}{index}.{rest}"


def _block_prefix(numbered: Iterable[re.Match[str]], num_blocks: int, folder: Path) -> str:
    """Return the prefix of the block index in the names on disk, such as `model.layers.`."""
    indices: dict[str, set[int]] = defaultdict(set)
    for match in numbered:
        indices[match["prefix"]].add(int(match["index"]))
    fitting = [prefix for prefix, found in indices.items() if found == set(range(num_blocks))]
    if len(fitting) != 1:
        found = ", ".join(f"{prefix}* ({len(found)})" for prefix, found in indices.items()) or "none"
        raise InputError(f"{folder}: expected the weights of {num_blocks} numbered blocks; numbered names: {found}")
    return fitting[0]
