"""The picture of plans: every block of the model and of the emulator, in its place and in the colour of its kind."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks.core.plan.layout import Plan, fixed_plan
from tasks.reports.run.plans import KINDS, plan_drawing
from tests.reports.reading import colour, legend, title

# Of blocks 0 to 5 some kept and the outer ones tuned. Between 0 and 2 block 2 stands in for 1, and the tuned 5 for 4.
SHARED = fixed_plan(6, (0, 2, 3, 5), (0, 5), "all")
PRUNED = fixed_plan(6, (0, 1, 4), (1,), None)
# Linear maps for 1 and 2 are folded into 0; behind the tuned 3, block 4 is only removed.
LINEAR = fixed_plan(6, (0, 3, 5), (3,), "linear")
INITIALS = {"tuned": "t", "frozen": "f", "mapped": "m", "copy": "c", "removed": "-"}


def boxes(axes: Any) -> dict[tuple[float, float], tuple[str, str]]:
    """By the middle of each box: its words and its kind, by colour and hatching."""
    kinds = {colour(shade): kind for kind, shade in KINDS.items()}
    written = {rounded(text.get_position()): text.get_text() for text in axes.texts}
    found = {}
    for patch in axes.patches:
        extents = patch.get_path().get_extents()
        middle = rounded((extents.get_points()[0] + extents.get_points()[1]) / 2)
        kind = kinds[colour(patch.get_facecolor())]
        assert bool(patch.get_hatch()) == (kind in ("copy", "mapped")), "stand-ins are seen without colours too"
        found[middle] = (written[middle], kind)
    return found


def rounded(place: Any) -> tuple[float, float]:
    """Without the error of sums."""
    return round(float(place[0]), 6), round(float(place[1]), 6)


def rows(axes: Any) -> Iterator[tuple[str, str, str]]:
    """From above: the words on the left, the numbers of the boxes, and an initial for the kind of each."""
    found = boxes(axes)
    heights = {rounded(text.get_position())[1]: text.get_text() for text in axes.texts if text.get_ha() == "right"}
    for height, name in sorted(heights.items(), reverse=True):
        own = [found[place] for place in sorted(found) if place[1] == height]
        # Boxes stand at whole places, without gaps.
        assert sorted(x for x, y in found if y == height) == list(range(len(own)))
        yield name, "".join(number for number, _ in own), "".join(INITIALS[kind] for _, kind in own)


def draw(saved: dict[str, Any], plans: dict[str, Plan]) -> Any:
    plan_drawing(plans, Path("plans.png"))
    [axes] = saved["plans"].axes
    return axes


def test_every_block_has_its_place_and_kind(saved: dict[str, Any]) -> None:
    axes = draw(saved, {"crash": SHARED, "uniform": PRUNED})
    assert list(rows(axes)) == [
        ("crash: full model", "012345", "t-ff-t"),
        ("emulator runs", "022355", "tcffct"),
        ("uniform: full model", "012345", "ft--f-"),
        ("emulator runs", "014", "ftf"),
    ]
    assert title(axes) == "Which block runs where"


def test_a_block_with_a_linear_stand_in_is_drawn_apart(saved: dict[str, Any]) -> None:
    axes = draw(saved, {"spans": LINEAR})
    assert list(rows(axes)) == [("spans: full model", "012345", "f--t-f"), ("emulator runs", "035", "mtf")]
    assert "frozen, with a linear stand-in" in legend(axes.get_figure())


@pytest.mark.parametrize("num_blocks", [6, 12, 40])
def test_the_legend_names_the_kinds_at_even_distances(saved: dict[str, Any], num_blocks: int) -> None:
    axes = draw(saved, {"crash": fixed_plan(num_blocks, (0, 2, num_blocks - 1), (0,), "all")})
    made = axes.get_figure()
    [shown] = made.legends
    looks = [(colour(each.get_facecolor()), bool(each.get_hatch())) for each in shown.legend_handles]
    assert dict(zip(legend(made), looks, strict=True)) == {
        "tuned": (colour(KINDS["tuned"]), False),
        "kept, frozen": (colour(KINDS["frozen"]), False),
        "stands in (copy)": (colour(KINDS["copy"]), True),
        "removed": (colour(KINDS["removed"]), False),
    }
    assert len(set(KINDS.values())) == len(KINDS)
    made.draw_without_rendering()
    boxes_and_words = zip(shown.legend_handles, shown.get_texts(), strict=True)
    extents = [(box.get_window_extent(), text.get_window_extent()) for box, text in boxes_and_words]
    gaps = [right.x0 - left.x1 for (_, left), (right, _) in pairwise(extents)]
    assert max(gaps) - min(gaps) < 2, "pixels"
    assert all(made.bbox.x0 <= box.x0 and text.x1 <= made.bbox.x1 for box, text in extents)
    assert max(text.y1 for _, text in extents) < axes.get_window_extent().y0, "below all plans"


@pytest.mark.parametrize("share", ["all", "frozen_only"])
def test_who_stands_in_is_drawn(saved: dict[str, Any], share: str) -> None:
    plan = fixed_plan(6, (0, 2, 3, 5), (0, 5), share)
    runs = {"all": "022355", "frozen_only": "022335"}[share]
    assert [numbers for _, numbers, _ in rows(draw(saved, {"crash": plan}))] == ["012345", runs]


def test_models_of_many_blocks_and_many_plans_are_within_the_picture(saved: dict[str, Any]) -> None:
    plans = {f"a strategy of number {number}": fixed_plan(40, (0, 20, 39), (0, 39)) for number in range(3)}
    axes = draw(saved, plans)
    made = axes.get_figure()
    made.draw_without_rendering()
    whole = made.bbox
    for artist in [*axes.texts, *axes.patches]:
        extent = artist.get_window_extent()
        assert whole.x0 <= extent.x0 <= extent.x1 <= whole.x1
        assert whole.y0 <= extent.y0 <= extent.y1 <= whole.y1
    for left, right in zip(axes.texts, axes.texts[1:], strict=False):
        apart = not left.get_window_extent().overlaps(right.get_window_extent())
        assert apart or not (left.get_text() and right.get_text())
