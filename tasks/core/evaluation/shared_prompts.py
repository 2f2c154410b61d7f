"""Cutting inputs into the forward passes of scoring: those that begin with the same tokens run their beginning once.

The inputs of a multiple-choice row differ only behind its prompt. Where the model takes masks, each group of such
inputs is a tree (`prompt_trees`). Otherwise, and for long groups, a pass has two parts: the first runs the beginnings,
all of one length and each once; the second runs what follows each of them, with the keys and values of its beginning.
As no token of the first part is padding, no mask or position has to be corrected, whatever the family's attention.
"""

import itertools
from collections.abc import Iterator, Sequence

from tasks.core.batching import PASS_COST, cheapest_parts, token_batches
from tasks.core.blocks.length_limits import LengthLimits
from tasks.core.evaluation.prompt_trees import tree_length, tree_passes
from tasks.core.evaluation.scoring_pass import Group, Ids, ScoringPass

# What a group has to save, in tokens and as a share of those of its inputs: below, a second part costs more.
MIN_SAVED = 16
MIN_SAVED_SHARE = 1 / 8
# Most inputs of a group, which bounds the search for groups.
MAX_MEMBERS = 64


def scoring_passes(
    inputs: Sequence[Ids], max_tokens: int, limits: LengthLimits, share: bool = True, longest_tree: int = 0
) -> list[ScoringPass]:
    """Cut distinct inputs into passes of at most `max_tokens` padded tokens; beginnings count with every member.

    limits: those of the model (`length_limits`); all inputs of a pass are on the same side of each. share: whether
    common beginnings run once. longest_tree: most tokens of a tree (`longest_tree`), 0 for passes in two parts alone.
    Passes are sorted by length, those with trees first, then those with shared beginnings.
    """
    lengths, longest_tree = [len(ids) for ids in inputs], min(longest_tree, max_tokens)
    groups = list(_groups(inputs, max_tokens, limits, longest_tree)) if share else []
    short = [group for group in groups if tree_length(lengths, group) <= longest_tree]
    long = [group for group in groups if tree_length(lengths, group) > longest_tree]
    shared = tree_passes(lengths, short, max_tokens, limits) + shared_passes(lengths, long, max_tokens, limits)
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


def pays(saved: int, total: int, tree: bool = False) -> bool:
    """Return whether a group is worth the second part or, in a tree, the mask that saves so many of its tokens."""
    return saved >= max(0 if tree else MIN_SAVED, MIN_SAVED_SHARE * total)


def _groups(inputs: Sequence[Ids], max_tokens: int, limits: LengthLimits, longest_tree: int) -> Iterator[Group]:
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
            saved = (count - 1) * shared
            tree = total - saved <= longest_tree
            if shared == 0 or (count * longest > max_tokens and not tree):
                break
            if not tree:
                # What follows the common beginning is padded to the longest.
                saved -= count * longest - total
            same_side = limits.group(shared) == limits.group(longest)
            if best[begin] + saved > best[end] and pays(saved, total, tree) and same_side:
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
