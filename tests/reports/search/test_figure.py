"""The picture of a search: every measured plan at its gap and gain, numbered as in the table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.reports.search.figure import LINE, draw
from tasks.reports.style import GREY, VERMILION
from tests.reports.reading import colour, labels, legend, points, ticks, title, words

FACTS = {"task": "people", "model": "small"}
# name: strategy, privacy gap, gain, bytes, whether on the frontier of all three.
PLANS = [
    ("uniform", 0.1, 0.5, 2e6, True),
    ("crash", 0.3, 0.4, 5e6, True),
    ("crash", 0.2, 0.2, 1e6, True),
    ("uniform", 0.15, 0.1, 4e6, False),
]


def plans(stderr: float | None = 0.01) -> list[dict[str, Any]]:
    names = ("strategy", "privacy_gap", "gain", "num_bytes", "on_frontier")
    errors = {"gain_stderr": stderr, "privacy_gap_stderr": 3 * stderr if stderr else None}
    left_out = {"number": 9, "strategy": "random", "gain": None, "privacy_gap": None, "num_bytes": None}
    return [{**dict(zip(names, plan, strict=True)), **errors, "number": at} for at, plan in enumerate(PLANS, 1)] + [
        left_out | {"gain_stderr": None, "privacy_gap_stderr": None, "on_frontier": None}
    ]


def drawn(saved: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    draw(rows, FACTS, Path("frontier.png"))
    return saved["frontier"].axes[0]


def clouds(axes: Any) -> list[Any]:
    """The collections of points: one for each strategy in the order of the names, and the rings."""
    from matplotlib.collections import PathCollection

    return [each for each in axes.collections if isinstance(each, PathCollection)]


def test_plans_lie_at_their_gap_and_gain(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans())
    crash, uniform, rings = clouds(axes)
    assert crash.get_offsets().tolist() == [[0.3, 0.4], [0.2, 0.2]]
    assert uniform.get_offsets().tolist() == [[0.1, 0.5], [0.15, 0.1]]
    assert rings.get_offsets().tolist() == [[0.1, 0.5], [0.3, 0.4], [0.2, 0.2]]
    assert {colour(shade) for shade in rings.get_edgecolor()} == {colour(VERMILION)}
    assert len(rings.get_facecolor()) == 0
    assert not np.array_equal(crash.get_paths()[0].vertices, uniform.get_paths()[0].vertices)
    assert title(axes) == "What a plan gains and keeps: people with small"
    [note] = [text for text in words(axes.texts) if "validation rows" in text]
    assert note.endswith("numbers as in the table; bars: standard errors over seeds")
    assert labels(axes) == (
        "privacy gap: tuned emulator − plug-in (nats per answer token)",
        "plug-in gain: full zero-shot − plug-in (nats per answer token)",
    )


def test_the_darker_a_plan_the_more_it_discloses(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans())
    crash, uniform, _ = clouds(axes)
    assert (crash.get_array().tolist(), uniform.get_array().tolist()) == ([5.0, 1.0], [2.0, 4.0])
    assert crash.get_clim() == uniform.get_clim() == pytest.approx((0.999, 5.005))
    light = crash.to_rgba(np.array([1.0, 2.0, 4.0, 5.0]))[:, :3].sum(axis=1).tolist()
    assert light == sorted(light, reverse=True)
    assert saved["frontier"].axes[1].get_ylabel() == "emulator, disclosed (MB): darker is more"


def test_every_plan_has_its_number_beside_it(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans())
    found = {text.get_text(): text for text in axes.texts if hasattr(text, "xy")}
    assert {number: text.xy for number, text in found.items()} == {
        str(number): (gap, gain) for number, (_, gap, gain, *_) in enumerate(PLANS, 1)
    }, "a plan that was not measured has no place"
    axes.get_figure().draw_without_rendering()
    for text in found.values():
        x, y = text.get_position()
        assert max(abs(x), abs(y)) < 30, "points away from what it numbers"


def test_errors_reach_along_both_axes(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans())
    across, up = [], []
    for container in axes.containers:
        sideways, upright = container.lines[2]
        across += [segment.tolist() for segment in sideways.get_segments()]
        up += [segment.tolist() for segment in upright.get_segments()]
        assert {colour(shade) for bars in (sideways, upright) for shade in bars.get_color()} == {colour(GREY)}
    order = (1, 2, 0, 3)  # by strategy
    gaps, gains = ([PLANS[at][field] for at in order] for field in (1, 2))
    expected = [[(x - 0.03, y), (x + 0.03, y)] for x, y in zip(gaps, gains, strict=True)]
    np.testing.assert_allclose(across, expected)
    np.testing.assert_allclose(up, [[(x, y - 0.01), (x, y + 0.01)] for x, y in zip(gaps, gains, strict=True)])


def test_one_seed_has_no_errors(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans(stderr=None))
    assert not axes.containers
    assert not any("standard errors" in text for text in words(axes.texts))


def test_steps_join_the_plans_that_none_beats_in_gain_and_gap(saved: dict[str, Any]) -> None:
    """Plan 3 has the smallest emulator, but plan 2 gains more and keeps more: the steps leave it out."""
    axes = drawn(saved, plans())
    [line] = [line for line in axes.get_lines() if line.get_label() == LINE]
    assert points(line) == [(0.1, 0.5), (0.3, 0.4)]
    # Right of plan 1 the best gain is that of plan 2.
    assert line.get_drawstyle() == "steps-pre"
    names = ["crash", "uniform", "frontier of gain, gap and bytes", LINE]
    assert legend(axes) == names
    handles = axes.get_legend().legend_handles
    assert [handle.get_marker() for handle in handles[:3]] == ["o", "s", "o"]
    assert colour(handles[2].get_markeredgecolor()) == colour(VERMILION)


def test_a_plan_that_beats_all_has_no_steps(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans()[1:3])
    assert legend(axes) == ["crash", "frontier of gain, gap and bytes"]


@pytest.mark.parametrize(("shift", "expected"), [(0.0, []), (-0.25, ["x", "y"]), (-0.9, [])])
def test_zero_is_marked_where_plans_lie_on_both_sides(saved: dict[str, Any], shift: float, expected: list[str]) -> None:
    rows = plans()[:4]
    for row in rows:
        row["privacy_gap"] += shift
        row["gain"] += shift
    found = []
    for line in drawn(saved, rows).get_lines():
        found += ["x"] if list(line.get_xdata()) == [0, 0] else ["y"] if list(line.get_ydata()) == [0, 0] else []
    assert found == expected


def test_a_single_plan_has_a_scale_too(saved: dict[str, Any]) -> None:
    axes = drawn(saved, plans()[:1])
    assert clouds(axes)[0].get_clim() == pytest.approx((1.998, 2.002))
    assert len(ticks(saved["frontier"].axes[1].yaxis)) > 0
