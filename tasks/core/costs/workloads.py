"""Workloads of tasks: lengths of their rows, and the padded forward passes that this project makes of them.

The passes are those of `capture`, `score_tokens` and `train`, cut by the rule of `token_batches`.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tasks.core.batching import token_batches
from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits
from tasks.core.costs.totals import Passes
from tasks.core.evaluation.prompt_trees import tree_length, tree_passes
from tasks.core.evaluation.scoring_pass import Group, ScoringPass
from tasks.core.evaluation.shared_prompts import pays, shared_passes

# Number of quantiles of the sorted lengths in a shortened sample: the middles of as many equal parts.
NUM_QUANTILES = 16
# The cells of a sweep ask for the same passes again and again, and each takes as long as cutting an epoch.
CACHED = 256


@dataclass(frozen=True)
class Lengths:
    """Lengths of rows.

    num_rows: number of rows; tokens: tokens per row of a sample, ascending; answers: mean answer tokens per row;
    per_prompt: mean number of rows with the same prompt.
    """

    num_rows: int
    tokens: tuple[int, ...]
    answers: float
    per_prompt: float = 1.0

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int]], num_rows: int | None = None, per_prompt: float = 1.0) -> "Lengths":
        """Make lengths from (tokens, answer tokens) of a sample of `num_rows` rows."""
        tokens = sorted(length for length, _ in rows)
        mean = sum(answers for _, answers in rows) / len(rows)
        return cls(num_rows or len(rows), tuple(tokens), mean, per_prompt)

    def shortened(self) -> "Lengths":
        """Return the same lengths with a few quantiles in place of the sample."""
        places = [int((at + 0.5) * len(self.tokens) / NUM_QUANTILES) for at in range(NUM_QUANTILES)]
        return replace(self, tokens=tuple(self.tokens[place] for place in places))

    def limited(self, limit: int | None) -> "Lengths":
        """Return the same lengths with at most `limit` rows."""
        return self if limit is None else replace(self, num_rows=min(limit, self.num_rows))

    def longer(self, count: int) -> "Lengths":
        """Return the same rows with `count` more tokens each, as behind a soft prompt."""
        return replace(self, tokens=tuple(length + count for length in self.tokens)) if count else self

    def rows(self, context: int) -> list[int]:
        """Length of every row, ascending and at most `context`."""
        count, size = self.num_rows, len(self.tokens)
        return [min(context, self.tokens[at * size // count]) for at in range(count)]


@dataclass(frozen=True)
class Workload:
    """Lengths of a task: its training rows, its validation rows, and each pass of scoring.

    One row of `scored` is one forward pass of a prompt and a choice; choices that differ in their last token share one.
    num_scored: number of rows that these passes score; writes: whether the model generates text for them.
    """

    train: Lengths
    validation: Lengths
    scored: Lengths
    num_scored: int
    writes: bool = False

    def limited(self, num_train: int | None, num_validation: int | None, num_test: int | None) -> "Workload":
        """Return the workload with at most these numbers of rows of each split."""
        count = min(self.num_scored, num_test or self.num_scored)
        scored = self.scored.limited(max(1, round(self.scored.num_rows * count / self.num_scored)))
        return Workload(
            self.train.limited(num_train), self.validation.limited(num_validation), scored, count, self.writes
        )


@lru_cache(maxsize=CACHED)
def sorted_passes(lengths: Lengths, context: int, max_tokens: int, limits: LengthLimits = NO_LIMITS) -> Passes:
    """Passes of capture and validation: all rows, sorted by length."""
    return _passes([lengths.rows(context)], lengths.answers, max_tokens, limits)


@lru_cache(maxsize=CACHED)
def scoring_passes(
    lengths: Lengths, context: int, max_tokens: int, limits: LengthLimits = NO_LIMITS, longest_tree: int = 0
) -> Passes:
    """Passes of scoring, in which a prompt runs once for all rows that share it; these are taken to be as long."""
    rows, answers = lengths.rows(context), lengths.answers
    by_prompt: dict[int, list[int]] = {}
    for place in range(len(rows)):
        by_prompt.setdefault(int(place / lengths.per_prompt), []).append(place)
    trees, long = [], []
    for places in by_prompt.values():
        # The model does not read the last token of an answer.
        whole = Group(tuple(places), _prompt(rows[places[0]], answers))
        if tree_length(rows, whole) <= min(longest_tree, max_tokens):
            trees.append(whole)
            continue
        most = max(1, max_tokens // rows[places[-1]])
        parts = (places[start : start + most] for start in range(0, len(places), most))
        long += [Group(tuple(members), _prompt(rows[members[0]], answers)) for members in parts]
    trees = [group for group in trees if _pays(group, rows, tree=True)]
    long = [group for group in long if _pays(group, rows, tree=False)]
    found = Passes(0, 0, 0, 0, 0)
    grouped: set[int] = set()
    for chosen in tree_passes(rows, trees, max_tokens, limits) + shared_passes(rows, long, max_tokens, limits):
        found = found.plus((_in_trees if chosen.trees else _two_parts)(chosen, rows, answers))
        grouped |= set(chosen.members)
    alone = [length for place, length in enumerate(rows) if place not in grouped]
    return found.plus(_passes([alone], answers, max_tokens, limits))


def _pays(group: Group, rows: Sequence[int], tree: bool) -> bool:
    """Return whether so many of a group's tokens are saved that sharing its prompt pays."""
    saved, total = (len(group.members) - 1) * group.shared, sum(rows[member] for member in group.members)
    return saved > 0 and pays(saved, total, tree)


def _in_trees(chosen: ScoringPass, rows: Sequence[int], answers: float) -> Passes:
    """Passes whose rows are prompts with all their answers."""
    count, longest = len(chosen.trees), max(tree_length(rows, tree) for tree in chosen.trees)
    # The first tokens of all answers are predicted at one position.
    positions = answers * len(chosen.members) - (len(chosen.members) - count)
    return Passes(count * longest, count * longest**2, positions, count * longest, positions)


def _two_parts(chosen: ScoringPass, rows: Sequence[int], answers: float) -> Passes:
    """Passes of the beginnings and of what follows them."""
    start, count, num_begins = chosen.start, len(chosen.members), len(set(chosen.begins))
    longest = max(rows[member] for member in chosen.members)
    # Padding behind the answers runs too; a pass whose rows have one-token answers ends with its first part.
    first, second = num_begins * start, count * (longest - start)
    # The first tokens of all answers are predicted at one position, where their whole prompt is in the first part.
    begun = [row for at, row in zip(chosen.members, chosen.begins, strict=True) if _prompt(rows[at], answers) == start]
    positions = answers * count - len(begun) + len(set(begun))
    squares = num_begins * start**2 + second * longest
    kept = count * longest if second else 0
    return Passes(first + second, squares, positions, max(first, second), positions, kept)


def _prompt(length: int, answers: float) -> int:
    """Number of tokens of a prompt in an input of this length, which lacks the last token of the answer."""
    return round(length - answers + 1)


@lru_cache(maxsize=CACHED)
def training_passes(
    lengths: Lengths, context: int, batch_size: int, max_tokens: int, limits: LengthLimits = NO_LIMITS
) -> tuple[Passes, int]:
    """Return (passes of one epoch, number of its steps) for shuffled batches, each cut into passes."""
    rows = lengths.rows(context)
    random.Random(0).shuffle(rows)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return _passes(batches, lengths.answers, max_tokens, limits), len(batches)


def _passes(batches: Iterable[Sequence[int]], answers: float, max_tokens: int, limits: LengthLimits) -> Passes:
    tokens, squares, num_rows, largest, most_answers = 0, 0, 0, 0, 0.0
    for batch in batches:
        for chosen in token_batches(batch, max_tokens, limits):
            longest = max(batch[index] for index in chosen)
            tokens += longest * len(chosen)
            squares += longest**2 * len(chosen)
            largest = max(largest, longest * len(chosen))
            most_answers = max(most_answers, answers * len(chosen))
        num_rows += len(batch)
    return Passes(tokens, squares, answers * num_rows, largest, most_answers)
