"""Forward passes of scoring: inputs that begin with the same tokens run their common beginning once.

The inputs of a multiple-choice row differ only behind its prompt. A pass has two parts: the first runs the beginnings,
all of one length and each once; the second runs what follows each of them, with the keys and values of its beginning.
As no token of the first part is padding, no mask or position has to be corrected, whatever the family's attention.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.core.batching import PASS_COST, cheapest_parts, token_batches
from tasks.core.blocks.length_limits import LengthLimits

Ids = tuple[int, ...]

# What a group has to save, in tokens and as a share of those of its inputs: below, a second part costs more.
MIN_SAVED = 16
MIN_SAVED_SHARE = 1 / 8
# Most inputs of a group, which bounds the search for groups.
MAX_MEMBERS = 64


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
    lengths = [len(ids) for ids in inputs]
    groups = list(_groups(inputs, max_tokens, limits)) if share else []
    shared = shared_passes(lengths, groups, max_tokens, limits)
    grouped = {member for each in shared for member in each.members}
    alone = [index for index in range(len(inputs)) if index not in grouped]
    return shared + _plain_passes(lengths, alone, max_tokens, limits)


def shared_passes(
    lengths: Sequence[int], groups: Sequence[Group], max_tokens: int, limits: LengthLimits
) -> list[ScoringPass]:
    """Return passes of whole groups, longest beginnings first, with the lower cost of two orders of the groups.

    Each pass begins at its shortest beginning; the rest of a longer beginning runs with each of its members. Members
    that cost less without sharing are left out. lengths: those of all inputs.
    """
    orders = (
        sorted(groups, key=lambda group: -group.shared),
        sorted(groups, key=lambda group: group.shared - max(lengths[member] for member in group.members)),
    )
    cuts = [_cut(lengths, order, max_tokens, limits) for order in orders]
    _, parts = min(cuts, key=lambda cut: cut[0])
    found: list[ScoringPass] = []
    for each in sorted((_pass_of(part) for part in parts), key=lambda each: -each.start):
        plain = _plain_passes(lengths, each.members, max_tokens, limits)
        longest = max(lengths[member] for member in each.members)
        cost = _shared_cost(len(set(each.begins)), each.start, len(each.members), longest)
        if cost < _plain_cost(lengths, plain):
            found.append(each)
    return found


def _cut(
    lengths: Sequence[int], order: Sequence[Group], max_tokens: int, limits: LengthLimits
) -> tuple[float, list[Sequence[Group]]]:
    """Cut sorted groups into passes with the lowest cost in all; return the cost, and the groups of each pass."""
    cost, parts = cheapest_parts(_pass_costs(lengths, order, max_tokens, limits))
    return cost, [order[part] for part in parts]


def _pass_costs(
    lengths: Sequence[int], order: Sequence[Group], max_tokens: int, limits: LengthLimits
) -> Iterator[list[int]]:
    """Yield the costs of the passes that end with each group, as `cheapest_parts` takes them."""
    longest_of = [max(lengths[member] for member in group.members) for group in order]
    for last in range(len(order)):
        costs: list[int] = []
        count = longest = 0
        start = order[last].shared
        for group, its_longest in zip(order[last::-1], longest_of[last::-1], strict=True):
            start, longest, count = min(start, group.shared), max(longest, its_longest), count + len(group.members)
            if costs and (longest * count > max_tokens or limits.group(longest) != limits.group(start)):
                break
            costs.append(_shared_cost(len(costs) + 1, start, count, longest))
        yield costs[::-1]


def _shared_cost(num_groups: int, start: int, count: int, longest: int) -> int:
    """Cost of a pass of groups with `count` members: their beginnings of `start` tokens, and what follows these."""
    return 2 * PASS_COST + num_groups * start + count * (longest - start)


def _plain_cost(lengths: Sequence[int], passes: Sequence[ScoringPass]) -> int:
    padded = (len(each.members) * max(lengths[member] for member in each.members) for each in passes)
    return len(passes) * PASS_COST + sum(padded)


def _plain_passes(
    lengths: Sequence[int], chosen: Sequence[int], max_tokens: int, limits: LengthLimits
) -> list[ScoringPass]:
    batches = token_batches([lengths[index] for index in chosen], max_tokens, limits)
    return [ScoringPass(tuple(chosen[place] for place in batch)) for batch in batches]


def pays(saved: int, total: int) -> bool:
    """Return whether saving so many of a group's tokens is worth a second part."""
    return saved >= max(MIN_SAVED, MIN_SAVED_SHARE * total)


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
        shared = longest = total = len(inputs[order[end - 1]])
        for begin in range(end - 2, max(-1, end - 1 - MAX_MEMBERS), -1):
            length = len(inputs[order[begin]])
            shared, longest, total = min(shared, common[begin]), max(longest, length), total + length
            count = end - begin
            if shared == 0 or count * longest > max_tokens:
                break
            # What follows the common beginning is padded to the longest.
            saved = (count - 1) * shared - (count * longest - total)
            if best[begin] + saved > best[end] and pays(saved, total) and limits.group(shared) == limits.group(longest):
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
    return ScoringPass(members, min(group.shared for group in groups), begins)
