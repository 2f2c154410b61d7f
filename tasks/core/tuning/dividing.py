"""Division of a batch into forward passes, and of the passes among processes."""

from collections.abc import Sequence

import torch

from tasks.core.batching import Batch, Example, collate, lengths_of, padded_size, token_batches
from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits
from tasks.core.tuning.parallel import Team


class Division:
    """Divides rows into forward passes of at most max_tokens padded tokens (or one row).

    limits: length limits; rows on different sides of a limit are in different passes of the same step.
    """

    def __init__(
        self, team: Team, max_tokens: int, pad_id: int, device: torch.device, limits: LengthLimits = NO_LIMITS
    ) -> None:
        self.team, self.max_tokens, self.pad_id, self.device = team, max_tokens, pad_id, device
        self.limits = limits

    def passes(self, rows: Sequence[Example]) -> list[tuple[Batch, bool]]:
        """Return this process's passes, and whether each counts; passes that only keep processes in step do not."""
        cut = self._cut(rows)
        own = [(batch, True) for batch in cut[self.team.rank]]
        if self.team.in_step:
            shortest = [min(rows, key=lambda row: row.num_tokens)]
            own += [(shortest, False)] * (max(map(len, cut)) - len(own))
        return [(collate(batch, self.pad_id).to(self.device), counts) for batch, counts in own]

    def largest(self, rows: Sequence[Example]) -> int:
        """Return the padded tokens of the largest pass of any process."""
        return max(padded_size(batch) for part in self._cut(rows) for batch in part)

    def _cut(self, rows: Sequence[Example]) -> list[list[list[Example]]]:
        """Cut the rows into passes, by process."""
        parts = self.team.divide(rows)
        return [
            [
                [part[index] for index in chosen]
                for chosen in token_batches(lengths_of(part), self.max_tokens, self.limits)
            ]
            for part in parts
        ]
