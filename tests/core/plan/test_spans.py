"""The plan with the smallest errors of stand-ins: against an exhaustive search, and with tuned blocks in the way."""

import itertools
import math
import random

import pytest

from tasks.core.errors import InputError
from tasks.core.plan.placement import spread
from tasks.core.plan.spans import spans_plan

NUM_BLOCKS = 9


def some_errors(seed: int, num_blocks: int = NUM_BLOCKS, missing: float = 0.0) -> list[list[float]]:
    """Errors that grow with the length of a run; some runs have no stand-in."""
    draw = random.Random(seed)
    return [
        [math.inf if b <= a or draw.random() < missing else (b - a) * draw.uniform(0.5, 2) for b in range(num_blocks)]
        for a in range(num_blocks)
    ]


def total(errors: list[list[float]], kept: tuple[int, ...], tuned: tuple[int, ...]) -> float:
    """Sum of the errors of a plan's runs; infinite when a tuned block is in front of one, or is removed."""
    if kept[0] or not set(tuned) <= set(kept):
        return math.inf
    runs = [(a, b) for a, b in itertools.pairwise((*kept, len(errors))) if b > a + 1]
    return math.inf if any(a in tuned for a, _ in runs) else sum(errors[a][b - 1] for a, b in runs)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("placement", ["centres", "ends", "explicit"])
@pytest.mark.parametrize("num_kept", [4, 6, 8])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all(seed: int, num_kept: int, placement: str, missing: float) -> None:
    errors = some_errors(seed, missing=missing)

    def tuned_of(kept: tuple[int, ...]) -> tuple[int, ...]:
        return {"centres": spread(kept, 2), "ends": (0, NUM_BLOCKS - 1), "explicit": (2, 5)}[placement]

    every = list(itertools.combinations(range(NUM_BLOCKS), num_kept))
    best = min(every, key=lambda kept: total(errors, kept, tuned_of(kept)))
    options = {"num_tuned": 2, "placement": placement, "tuned": (2, 5) if placement == "explicit" else ()}
    if total(errors, best, tuned_of(best)) == math.inf:
        with pytest.raises(InputError, match="needs a stand-in"):
            spans_plan(errors, num_kept, **options)
        return
    plan = spans_plan(errors, num_kept, **options)
    assert plan.kept == best
    assert plan.tuned == tuned_of(best)
    assert plan.share is None


def test_nothing_to_remove_costs_nothing() -> None:
    nothing = [[math.inf] * 3] * 3
    assert spans_plan(nothing, 3, 2).kept == (0, 1, 2)


def test_on_a_tie_the_lower_blocks_stay() -> None:
    alike = [[float(b > a) or math.inf for b in range(6)] for a in range(6)]
    assert spans_plan(alike, 5, 1, "explicit", (5,)).kept == (0, 1, 2, 3, 5)


@pytest.mark.parametrize(("num_kept", "num_tuned"), [(0, 1), (10, 4), (4, 5)])
def test_an_impossible_budget_is_refused(num_kept: int, num_tuned: int) -> None:
    with pytest.raises(InputError, match=r"num_(kept|tuned)"):
        spans_plan(some_errors(0), num_kept, num_tuned)


def test_many_blocks_take_no_time() -> None:
    plan = spans_plan(some_errors(0, 126), 90)
    assert len(plan.kept) == 90
