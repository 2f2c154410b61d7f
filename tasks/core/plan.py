"""Plans: which blocks an emulator keeps, which of those are tuned, and what runs at each of its positions.

Sources: CRaSh (EMNLP 2023, arXiv 2310.15477), sections 3.2 and 3.3; Offsite-Tuning (arXiv 2302.04870), section 3.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.core.errors import InputError

SHARES = (None, "all", "frozen_only")
Layout = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Plan:
    """An emulator of a model with `num_blocks` blocks.

    kept: indices of the blocks it has, ascending. tuned: those of them that are trained, ascending.
    share: None (removed blocks are gone), "all" (the nearest kept block stands in), "frozen_only" (the nearest frozen
    one, where a neighbour is frozen). layout: what runs at each position: (source block, whether it is the trained
    copy); a tuned source at another position is a frozen copy of its initial weights.
    Raises InputError on any inconsistency.
    """

    num_blocks: int
    kept: tuple[int, ...]
    tuned: tuple[int, ...]
    share: str | None
    layout: Layout

    def __post_init__(self) -> None:
        _check_indices("kept", self.kept, self.num_blocks)
        _check_indices("tuned", self.tuned, self.num_blocks)
        if outside := sorted(set(self.tuned) - set(self.kept)):
            raise InputError(f"plan: tuned block {outside[0]} is not kept; kept are {list(self.kept)}")
        if self.share not in SHARES:
            raise InputError(f"plan: share = {self.share!r}; choose from {', '.join(map(str, SHARES))}")
        if self.layout != make_layout(self.num_blocks, self.kept, self.tuned, self.share):
            raise InputError("plan: the layout does not follow from num_blocks, kept, tuned and share")

    @property
    def frozen(self) -> tuple[int, ...]:
        """Kept blocks that are never trained."""
        return tuple(index for index in self.kept if index not in self.tuned)

    def to_json(self) -> str:
        """The plan as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan of `to_json`. Raises InputError naming the field that is missing, unknown or wrong."""
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
    """What runs at each position of the emulator (CRaSh, section 3.3).

    Without sharing the kept blocks in order; with it the depth of the full model, a removed block replaced by the
    nearest kept one by index, the higher one on a tie, the only side that there is at the ends.
    """
    if share is None:
        return tuple((index, index in tuned) for index in kept)
    return tuple(
        (position, position in tuned) if position in kept else (_stand_in(position, kept, tuned, share), False)
        for position in range(num_blocks)
    )


def crash_plan(
    clusters: Sequence[Sequence[int]], num_tuned: int = 4, share: str | None = "all", keep_ends: bool = False
) -> Plan:
    """Keep the centre of each cluster of adjacent blocks; tune centres spread evenly (CRaSh, section 3.2).

    clusters: a partition of 0..N-1 into ascending runs. The centre of c_0..c_{s-1} is c_{floor(s/2)}; with keep_ends
    the first cluster is represented by block 0 and the last by block N-1.
    """
    members = [index for cluster in clusters for index in cluster]
    if not members or members != list(range(len(members))) or not all(clusters):
        raise InputError(f"clusters must cut blocks 0..N-1 into runs, each at least one block; got {clusters}")
    centres = [cluster[len(cluster) // 2] for cluster in clusters]
    if keep_ends:
        if len(centres) < 2:
            raise InputError("keep_ends needs at least two clusters, one for each end")
        centres[0], centres[-1] = 0, len(members) - 1
    kept = tuple(centres)
    return _plan(len(members), kept, spread(kept, num_tuned), share)


def uniform_plan(num_blocks: int, num_kept: int, num_tuned: int = 4) -> Plan:
    """Tune the blocks at both ends and keep others evenly spaced between them (Offsite-Tuning, section 3.2).

    Of the middle blocks the one at round(i (M-1) / (S-1)) is kept, with Python's half-to-even rounding.
    """
    _check_budget(num_blocks, num_kept, num_tuned)
    low = num_tuned // 2
    high = num_blocks - (num_tuned - low)
    middle = range(low, high)
    tuned = (*range(low), *range(high, num_blocks))
    frozen = [middle[place] for place in evenly(len(middle), num_kept - num_tuned)]
    return _plan(num_blocks, tuple(sorted((*tuned, *frozen))), tuned, None)


def fixed_plan(num_blocks: int, kept: Sequence[int], tuned: Sequence[int], share: str | None = None) -> Plan:
    """Exactly these blocks."""
    return _plan(num_blocks, tuple(sorted(kept)), tuple(sorted(tuned)), share)


def full_plan(num_blocks: int) -> Plan:
    """Keep and tune everything: ordinary fine-tuning of all blocks."""
    every = tuple(range(num_blocks))
    return _plan(num_blocks, every, every, None)


def spread(kept: Sequence[int], num_tuned: int) -> tuple[int, ...]:
    """Tuned blocks among the sorted kept ones: those at p_j = ceil(j (K-1) / (m-1)) (CRaSh's published plans)."""
    _check_budget(len(kept), len(kept), num_tuned)
    if num_tuned == 1:
        raise InputError("num_tuned = 1: say which block, with strategy fixed and an explicit list of tuned blocks")
    places = [math.ceil(j * (len(kept) - 1) / (num_tuned - 1)) for j in range(num_tuned)]
    return tuple(kept[place] for place in places)


def evenly(num_places: int, num_chosen: int) -> list[int]:
    """`num_chosen` of 0..num_places-1, evenly spaced with both ends; the middle one for a single choice."""
    if num_chosen == 1:
        return [num_places // 2]
    return [round(i * (num_places - 1) / (num_chosen - 1)) for i in range(num_chosen)]


def _stand_in(position: int, kept: Sequence[int], tuned: Sequence[int], share: str) -> int:
    lower = max((index for index in kept if index < position), default=None)
    higher = min((index for index in kept if index > position), default=None)
    if lower is None or higher is None:
        return lower if lower is not None else higher  # type: ignore[return-value]
    nearest = lower if position - lower < higher - position else higher
    if share == "frozen_only" and nearest in tuned:
        # The published rule asks the lower neighbour first, however far the two are.
        return next((index for index in (lower, higher) if index not in tuned), nearest)
    return nearest


def _plan(num_blocks: int, kept: tuple[int, ...], tuned: tuple[int, ...], share: str | None) -> Plan:
    return Plan(num_blocks, kept, tuned, share, make_layout(num_blocks, kept, tuned, share))


def _check_budget(num_blocks: int, num_kept: int, num_tuned: int) -> None:
    if not 1 <= num_kept <= num_blocks:
        raise InputError(f"num_kept = {num_kept}: keep between 1 and {num_blocks}, the number of blocks")
    if not 1 <= num_tuned <= num_kept:
        raise InputError(f"num_tuned = {num_tuned}: tune between 1 and {num_kept}, the number of kept blocks")


def _check_indices(name: str, indices: tuple[int, ...], num_blocks: int) -> None:
    if not indices:
        raise InputError(f"plan: {name} is empty; name at least one block")
    if list(indices) != sorted(set(indices)):
        raise InputError(f"plan: {name} = {list(indices)} must be ascending without repetition")
    if indices[0] < 0 or indices[-1] >= num_blocks:
        raise InputError(f"plan: {name} = {list(indices)} leaves 0..{num_blocks - 1}, the blocks of the model")


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
