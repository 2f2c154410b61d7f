"""Changes of whole blocks by a tuning: how far each moved, and on how few directions the change lies.

A change is an alarm, never a proof: tunings of honest data owners are small and lie on many directions, and a change
that is large, or all in one direction of a matrix, is worth a look before it is plugged in. A backdoor can be neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

# Relative changes. Tunings of whole blocks with rates from 2e-5 to 2e-4 moved blocks of SmolLM2 by 0.002 to 0.006 of
# their norm, and 100 steps at 5e-4 those of the embedded model by 0.08 to 0.09.
LARGE, NOT_A_TUNING = 0.3, 0.999
# Times the median of the other blocks.
UNEQUAL = 10.0
# Share of a matrix's squared change along its largest singular direction.
ONE_DIRECTION = 0.9
ITERATIONS = 16


@dataclass(frozen=True)
class BlockChange:
    """moved: norm of a block's change divided by its norm; direction: largest share of any matrix's squared change that
    lies along one pair of singular vectors, and matrix: of which.
    """

    moved: float
    direction: float
    matrix: str


def measure_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[int, BlockChange]:
    """Measure the change of each block.

    before, after: whole blocks, `"{block}.{name}"` to tensor, with the same names and shapes.
    """
    blocks = sorted({int(name.partition(".")[0]) for name in after})
    return {
        block: _block_change(
            {name: (before[name], after[name]) for name in after if name.partition(".")[0] == str(block)}
        )
        for block in blocks
    }


def alarms(changes: Mapping[int, BlockChange], has_factors: bool) -> list[str]:
    """Return a sentence for each change that honest tunings do not make.

    has_factors: the tuning returned low-rank factors, whose changes lie on few directions by design.
    """
    found = [
        f"block {block} moved by {change.moved:.0%} of its norm; tunings move blocks by less than {LARGE:.0%}"
        for block, change in changes.items()
        if change.moved > LARGE
    ]
    found += [f"block {block} did not change at all" for block, change in changes.items() if change.moved == 0]
    for block, change in changes.items():
        others = [each.moved for other, each in changes.items() if other != block]
        if others and 0 < UNEQUAL * median(others) < change.moved:
            found.append(f"block {block} moved {change.moved / median(others):.0f} times as far as the other blocks")
        if change.direction > ONE_DIRECTION and not has_factors:
            found.append(f"{change.direction:.0%} of the change of {change.matrix} lie along one direction")
    return found


def not_tunings(changes: Mapping[int, BlockChange]) -> list[int]:
    """Return the blocks that moved by their own norm or further, such as blocks of zeros."""
    return [block for block, change in changes.items() if change.moved >= NOT_A_TUNING]


def _block_change(tensors: Mapping[str, tuple[Tensor, Tensor]]) -> BlockChange:
    moved = size = 0.0
    directions = {}
    for name, (before, after) in tensors.items():
        change = after.double() - before.double()
        moved += float(change.square().sum())
        size += float(before.double().square().sum())
        if change.ndim == 2 and min(change.shape) > 1 and change.any():
            directions[name] = largest_direction(change)
    matrix = max(directions, key=directions.__getitem__, default="")
    return BlockChange((moved / max(size, 1e-300)) ** 0.5, directions.get(matrix, 0.0), matrix)


def largest_direction(change: Tensor) -> float:
    """Return the squared largest singular value of a matrix as a share of its squared norm, by power iteration.

    change: [rows, columns], not zero. The result is at most the true share.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(change.shape[1], generator=generator, dtype=change.dtype)
    for _ in range(ITERATIONS):
        vector = change.T @ (change @ vector)
        vector /= vector.norm().clamp_min(1e-300)
    return float((change @ vector).square().sum() / change.square().sum())
