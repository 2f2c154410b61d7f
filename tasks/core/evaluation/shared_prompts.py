"""Forward passes of scoring: inputs that begin with the same tokens run their common beginning once.

The inputs of a multiple-choice row differ only behind its prompt. A pass has two parts: the first runs the beginnings,
all of one length and each once; the second runs what follows each of them, with the keys and values of its beginning.
As no token of the first part is padding, no mask or position has to be corrected, whatever the family's attention.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.core.batching import Example, token_batches
from tasks.core.blocks.length_limits import LengthLimits

Ids = tuple[int, ...]

# The fewest tokens that a group has to save: below this, a second part costs more than it saves.
MIN_SAVED = 16
# Most inputs of a group, which bounds the search for groups.
MAX_MEMBERS = 64
# Largest part of a beginning that may run with each member instead, so that beginnings of other lengths fit in a pass.
MAX_REPEATED = 1 / 16


@dataclass(frozen=True)
class ScoringPass:
    """One forward pass over some inputs.

    members: indices of the inputs. start: number of tokens of the first part, 0 when nothing is shared. begins: for
    each member, the row of the first part with which it begins.
    """

    members: tuple[int, ...]
    start: int = 0
    begins: tuple[int, ...] = ()

    def beginnings(self, inputs: Sequence[Ids]) -> list[Ids]:
        """Return the rows of the first part, all of length `start`."""
        rows: dict[int, Ids] = {}
        for member, row in zip(self.members, self.begins, strict=self.start > 0):
            rows.setdefault(row, inputs[member][: self.start])
        return [rows[row] for row in sorted(rows)]


@dataclass(frozen=True)
class Group:
    """Indices of inputs with the same first `shared` tokens."""

    members: tuple[int, ...]
    shared: int


def scoring_passes(
    inputs: Sequence[Ids], max_tokens: int, limits: LengthLimits, share: bool = True
) -> list[ScoringPass]:
    """Cut distinct inputs into passes of at most `max_tokens` padded tokens; beginnings count with every member.

    limits: those of the model (`length_limits`); all inputs of a pass are on the same side of each. share: whether
    common beginnings run once. Passes are sorted by length, those with shared beginnings first.
    """
    groups = list(_groups(inputs, max_tokens, limits)) if share else []
    shared = list(shared_passes([len(ids) for ids in inputs], groups, max_tokens, limits))
    grouped = {member for group in groups for member in group.members}
    alone = [index for index in range(len(inputs)) if index not in grouped]
    examples = [Example(inputs[index], ()) for index in alone]
    plain = [
        ScoringPass(tuple(alone[place] for place in batch)) for batch in token_batches(examples, max_tokens, limits)
    ]
    return shared + plain


def shared_passes(
    lengths: Sequence[int], groups: Sequence[Group], max_tokens: int, limits: LengthLimits
) -> Iterator[ScoringPass]:
    """Yield passes of whole groups, longest beginnings first; each pass begins at its shortest beginning.

    lengths: those of all inputs.
    """
    batch: list[Group] = []
    longest = count = 0
    for group in sorted(groups, key=lambda group: -group.shared):
        length = max(lengths[member] for member in group.members)
        fits = batch and (
            max(longest, length) * (count + len(group.members)) <= max_tokens
            and group.shared >= batch[0].shared * (1 - MAX_REPEATED)
            and limits.group(max(longest, length)) == limits.group(group.shared)
        )
        if batch and not fits:
            yield _pass_of(batch)
            batch, longest, count = [], 0, 0
        batch.append(group)
        longest, count = max(longest, length), count + len(group.members)
    if batch:
        yield _pass_of(batch)


def _groups(inputs: Sequence[Ids], max_tokens: int, limits: LengthLimits) -> Iterator[Group]:
    """Yield the groups that save the most tokens in all; inputs that are in none share too little.

    Groups are runs of the sorted inputs, where inputs with a long common beginning are neighbours. best[end]: tokens
    saved by the best groups of the first `end` sorted inputs; begun[end]: where the last of these groups begins.
    """
    order = sorted(range(len(inputs)), key=lambda index: inputs[index])
    common = [_common(inputs[a], inputs[b]) for a, b in itertools.pairwise(order)]
    best, begun = [0] * (len(order) + 1), list(range(-1, len(order)))
    for end in range(1, len(order) + 1):
        best[end] = best[end - 1]
        shared, longest = len(inputs[order[end - 1]]), len(inputs[order[end - 1]])
        for begin in range(end - 2, max(-1, end - 1 - MAX_MEMBERS), -1):
            shared, longest = min(shared, common[begin]), max(longest, len(inputs[order[begin]]))
            count = end - begin
            if shared == 0 or count * longest > max_tokens:
                break
            saved = (count - 1) * shared
            if saved >= MIN_SAVED and best[begin] + saved > best[end] and limits.group(shared) == limits.group(longest):
                best[end], begun[end] = best[begin] + saved, begin
    end = len(order)
    while end > 0:
        begin = begun[end]
        if end - begin > 1:
            members = order[begin:end]
            yield Group(tuple(members), min(common[begin : end - 1]))
        end = begin


def _common(first: Ids, second: Ids) -> int:
    """Return the number of tokens with which both begin."""
    differences = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differences, min(len(first), len(second)))


def _pass_of(groups: Sequence[Group]) -> ScoringPass:
    members = tuple(member for group in groups for member in group.members)
    begins = tuple(row for row, group in enumerate(groups) for _ in group.members)
    return ScoringPass(members, groups[-1].shared, begins)
