"""Plans: which blocks an emulator keeps, which of them are tuned, and which block runs at each position.

Sources: CRaSh (EMNLP 2023, arXiv 2310.15477), sections 3.2 and 3.3; Offsite-Tuning (arXiv 2302.04870), section 3.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from tasks.core.errors import InputError
from tasks.core.plan.placement import check_budget, check_indices, evenly, place_tuned, spread, tuned_before_selection

Sharing = Literal["all", "frozen_only", "linear", "harmonizers"]
SHARES: tuple[Sharing | None, ...] = (None, *get_args(Sharing))
# The way in which no block runs a second time, but weights of frozen blocks are changed.
LINEAR: Sharing = "linear"
# The way in which small trained networks run in the place of removed blocks.
HARMONIZERS: Sharing = "harmonizers"
# Ways in which kept blocks run a second time, in the place of removed ones.
REPEATING: tuple[Sharing, ...] = ("all", "frozen_only")
Layout = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Plan:
    """Plan of an emulator of a model with `num_blocks` blocks.

    kept: indices of the kept blocks, ascending. tuned: indices of the kept blocks that are trained, ascending.
    share: None (nothing runs in place of a removed block), "all" (the nearest kept block stands in for it),
    "frozen_only" (the nearest kept block, or the other neighbour when the nearest is tuned and the other is frozen),
    "linear" (a linear map stands in for a run of removed blocks, folded into the frozen block in front of it) or
    "harmonizers" (a small trained network stands in for a removed block, beside the kept ones).
    layout: for each position, the source block and whether it is the trained copy. A tuned source at another position
    is a frozen copy with its initial weights.

    Raises:
        InputError: when the fields are inconsistent.
    """

    num_blocks: int
    kept: tuple[int, ...]
    tuned: tuple[int, ...]
    share: str | None
    layout: Layout

    def __post_init__(self) -> None:
        check_indices("kept", self.kept, self.num_blocks)
        check_indices("tuned", self.tuned, self.num_blocks)
        if outside := sorted(set(self.tuned) - set(self.kept)):
            raise InputError(f"plan: tuned block {outside[0]} is not kept; kept are {list(self.kept)}")
        if self.share not in SHARES:
            raise InputError(f"plan: share = {self.share!r}; choose from {', '.join(map(str, SHARES))}")
        if self.layout != make_layout(self.num_blocks, self.kept, self.tuned, self.share):
            raise InputError("plan: the layout does not follow from num_blocks, kept, tuned and share")

    @property
    def frozen(self) -> tuple[int, ...]:
        """Kept blocks that are not trained."""
        return tuple(index for index in self.kept if index not in self.tuned)

    @property
    def removed_runs(self) -> tuple[tuple[int, int], ...]:
        """Runs of removed blocks, each as the kept block in front of it, or -1, and its last block."""
        edges = pairwise((-1, *self.kept, self.num_blocks))
        return tuple((before, after - 1) for before, after in edges if after - before > 1)

    @property
    def replaced_runs(self) -> tuple[tuple[int, int], ...]:
        """Removed runs behind a frozen block, for which a linear map can stand in."""
        return tuple(run for run in self.removed_runs if run[0] in self.frozen)

    def to_json(self) -> str:
        """Serialise the plan to one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan that `to_json` wrote.

        Raises:
            InputError: when a field is missing, unknown or wrong; the message names it.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"plan: not valid JSON ({error})") from error
        names = set(cls.__dataclass_fields__)
        if not isinstance(values, dict) or values.keys() != names:
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InputError(f"plan: expected the fields {sorted(names)}, found {found}")
        if not _is_index(values["num_blocks"]):
            raise InputError(f"plan: num_blocks = {values['num_blocks']!r} is not a whole number")
        kept, tuned = (_read_indices(name, values[name]) for name in ("kept", "tuned"))
        return cls(values["num_blocks"], kept, tuned, values["share"], _read_layout(values["layout"]))


def make_layout(num_blocks: int, kept: Sequence[int], tuned: Sequence[int], share: str | None) -> Layout:
    """Make the layout of the emulator (CRaSh, section 3.3).

    Without sharing, or with linear stand-ins or harmonizers, the kept blocks run in order. With sharing, the emulator
    is as deep as the full model, and the nearest kept block by index stands in for each removed one: the higher one on
    a tie, and at the ends the only one.
    """
    if share not in REPEATING:
        return tuple((index, index in tuned) for index in kept)
    return tuple(
        (position, position in tuned) if position in kept else (_stand_in(position, kept, tuned, share), False)
        for position in range(num_blocks)
    )


def crash_plan(
    clusters: Sequence[Sequence[int]],
    num_tuned: int = 4,
    share: str | None = "all",
    keep_ends: bool = False,
    placement: str = "centres",
    tuned: Sequence[int] = (),
) -> Plan:
    """Keep the centre of each cluster of adjacent blocks; tune evenly spaced centres (CRaSh, section 3.2).

    clusters: a partition of 0..N-1 into ascending runs. The centre of c_0..c_{s-1} is c_{floor(s/2)}. With keep_ends,
    block 0 represents the first cluster and block N-1 the last. placement, tuned: see `place_tuned`.
    """
    members = [index for cluster in clusters for index in cluster]
    if not members or members != list(range(len(members))) or not all(clusters):
        raise InputError(f"clusters must cut blocks 0..N-1 into runs, each at least one block; got {clusters}")
    centres = [cluster[len(cluster) // 2] for cluster in clusters]
    if keep_ends:
        if len(centres) < 2:
            raise InputError("keep_ends needs at least two clusters, one for each end")
        centres[0], centres[-1] = 0, len(members) - 1
    return fixed_plan(len(members), centres, place_tuned(centres, num_tuned, placement, tuned), share)


def uniform_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int = 4,
    placement: str = "ends",
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Tune the blocks at both ends and keep evenly spaced blocks between them (Offsite-Tuning, section 3.2).

    Of the M blocks between the ends, S are kept: those at round(i (M-1) / (S-1)), with Python's half-to-even rounding.
    placement, tuned: see `pool_plan`.
    """

    def choose(pool: Sequence[int], count: int) -> list[int]:
        return [pool[place] for place in evenly(len(pool), count)]

    return pool_plan(num_blocks, num_kept, num_tuned, choose, placement, tuned, share)


def pool_plan(
    num_blocks: int,
    num_kept: int,
    num_tuned: int,
    choose: Callable[[Sequence[int], int], Sequence[int]],
    placement: str,
    tuned: Sequence[int] = (),
    share: str | None = None,
) -> Plan:
    """Keep the tuned blocks and, of all other blocks (the pool), those that `choose(pool, count)` returns.

    placement: "ends" tunes the first floor(m/2) and the last m - floor(m/2) blocks of the model (Offsite-Tuning);
    "explicit" tunes the blocks in `tuned` and ignores num_tuned; with "centres" the pool is the whole model, and the
    tuned blocks are spread evenly among the chosen ones (CRaSh).

    Raises:
        InputError: when the budget is impossible.
    """
    ahead = tuned_before_selection(num_blocks, num_tuned, placement, tuned)
    check_budget(num_blocks, num_kept, len(ahead) or num_tuned)
    pool = [index for index in range(num_blocks) if index not in ahead]
    kept = sorted((*ahead, *choose(pool, num_kept - len(ahead))))
    return fixed_plan(num_blocks, kept, ahead or spread(kept, num_tuned), share)


def fixed_plan(num_blocks: int, kept: Sequence[int], tuned: Sequence[int], share: str | None = None) -> Plan:
    """Keep and tune exactly these blocks."""
    return _plan(num_blocks, tuple(sorted(kept)), tuple(sorted(tuned)), share)


def full_plan(num_blocks: int) -> Plan:
    """Keep and tune all blocks: ordinary fine-tuning."""
    every = tuple(range(num_blocks))
    return _plan(num_blocks, every, every, None)


def _stand_in(position: int, kept: Sequence[int], tuned: Sequence[int], share: str | None) -> int:
    lower = max((index for index in kept if index < position), default=None)
    higher = min((index for index in kept if index > position), default=None)
    if lower is None or higher is None:
        return lower if lower is not None else higher  # type: ignore[return-value]
    nearest = lower if position - lower < higher - position else higher
    if share == "frozen_only" and nearest in tuned:
        # The published rule tries the lower neighbour first, whatever the distances.
        return next((index for index in (lower, higher) if index not in tuned), nearest)
    return nearest


def _plan(num_blocks: int, kept: tuple[int, ...], tuned: tuple[int, ...], share: str | None) -> Plan:
    return Plan(num_blocks, kept, tuned, share, make_layout(num_blocks, kept, tuned, share))


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_indices(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(_is_index, value)):
        raise InputError(f"plan: {name} must be a list of block indices")
    return tuple(value)


def _read_layout(value: Any) -> Layout:
    def is_place(pair: Any) -> bool:
        return isinstance(pair, list) and len(pair) == 2 and _is_index(pair[0]) and isinstance(pair[1], bool)

    if not isinstance(value, list) or not all(map(is_place, value)):
        raise InputError("plan: layout must be a list of [source, is_tuned]")
    return tuple((source, is_tuned) for source, is_tuned in value)
