"""A forward pass of scoring, and the groups of inputs that share a beginning in it."""

from collections.abc import Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Indices of inputs with the same first `shared` tokens."""

    members: tuple[int, ...]
    shared: int


@dataclass(frozen=True)
class ScoringPass:
    """One forward pass over some inputs.

    members: indices of the inputs. start: number of tokens of the first part, 0 when there is one part. begins: for
    each member, the row of the first part with which it begins. trees: the rows of the pass, where these are trees
    (`prompt_trees`).
    """

    members: tuple[int, ...]
    start: int = 0
    begins: tuple[int, ...] = ()
    trees: tuple[Group, ...] = ()

    def beginnings(self, inputs: Sequence[Ids]) -> list[Ids]:
        """Return the rows of the first part, all of length `start`."""
        rows: dict[int, Ids] = {}
        for member, row in zip(self.members, self.begins, strict=self.start > 0):
            rows.setdefault(row, inputs[member][: self.start])
        return [rows[row] for row in sorted(rows)]
