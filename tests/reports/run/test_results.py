"""Pictures of a run's results: known numbers lie where they belong, with their errors, under the right words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.reports.run.results import loss_curves, scores
from tasks.reports.style import CYCLE, GREY
from tests.reports.reading import colour, labels, legend, named, points, shown_colours, shown_ticks, ticks, title, words


def score(strategy: str, setting: str, value: float, stderr: float | None = None) -> dict[str, Any]:
    return {"strategy": strategy, "setting": setting, "value": value, "stderr": stderr}


SETTINGS = ("emulator_zero_shot", "emulator_fine_tuned", "plug_in")
SCORES = [
    score("full", "full_zero_shot", 0.4, 0.05),
    score("full", "full_fine_tuned", 0.8),
    # Not in the order in which they are drawn, and with differences, which are not drawn.
    *(score("uniform", setting, value, 0.02) for setting, value in zip(SETTINGS[::-1], (0.6, 0.5, 0.3), strict=True)),
    score("uniform", "gain", 9.0),
    score("crash", "emulator_zero_shot", 0.35),
    score("crash", "emulator_fine_tuned", 0.55, 0.01),
    score("crash", "plug_in", 0.7, 0.03),
]


def test_scores_lie_above_their_setting_with_their_errors(saved: dict[str, Any]) -> None:
    scores(SCORES, "acc", True, Path("scores.png"))
    [axes] = saved["scores"].axes
    found = {each.get_label(): each for each in axes.containers}
    assert list(found) == ["uniform", "crash"]
    expected = {
        "uniform": ([(-0.07, 0.3), (0.93, 0.5), (1.93, 0.6)], [(0.28, 0.32), (0.48, 0.52), (0.58, 0.62)]),
        "crash": ([(0.07, 0.35), (1.07, 0.55), (2.07, 0.7)], [(0.35, 0.35), (0.54, 0.56), (0.67, 0.73)]),
    }
    for (name, (places, ends)), shade in zip(expected.items(), CYCLE, strict=False):
        line, _, [bars] = found[name].lines
        np.testing.assert_allclose(points(line), places)
        np.testing.assert_allclose([(low, high) for (_, low), (_, high) in bars.get_segments()], ends)
        assert colour(line.get_color()) == colour(bars.get_color()[0]) == colour(shade)
    assert ticks(axes.xaxis) == {0: "emulator\nzero-shot", 1: "emulator\ntuned", 2: "plug-in"}
    assert title(axes) == "The five settings"
    assert words(axes.texts) == ["higher is better; bars and bands are standard errors"]
    assert axes.get_ylabel() == "acc"


def test_scores_of_the_full_model_are_lines_over_all_settings(saved: dict[str, Any]) -> None:
    scores(SCORES, "perplexity", False, Path("scores.png"))
    [axes] = saved["scores"].axes
    found = {name: line for name, line in named(axes).items() if name.startswith("full")}
    look = {name: (*set(line.get_ydata()), line.get_linestyle()) for name, line in found.items()}
    assert look == {"full model, zero-shot": (0.4, "--"), "full model, tuned": (0.8, "-")}
    assert {colour(line.get_color()) for line in found.values()} == {colour(GREY)}
    assert legend(axes) == [*look, "uniform", "crash"]
    assert words(axes.texts) == ["lower is better; bars and bands are standard errors"]
    assert axes.get_ylabel() == "perplexity"


def test_the_full_model_has_a_band_of_its_standard_error(saved: dict[str, Any]) -> None:
    scores(SCORES, "acc", True, Path("scores.png"))
    [axes] = saved["scores"].axes
    [band] = axes.patches
    low, high = band.get_extents().transformed(axes.transData.inverted()).intervaly
    assert (low, high) == pytest.approx((0.35, 0.45)), "zero-shot; the tuned one has no error here"
    assert band.get_extents().width == pytest.approx(axes.get_window_extent().width), "over all settings"
    assert colour(band.get_facecolor()) == colour(GREY)
    # The upper and lower part of the band, then above and below it, away from lines and points.
    inside, outside = np.split(shown_colours(axes, [(0.5, y) for y in (0.43, 0.37, 0.47, 0.33)]), 2)
    assert (inside == inside[0]).all()
    assert (inside < 250).all(), "the band is seen"
    assert (outside == 255).all(), "and ends at the error"


def test_scores_of_many_strategies_stay_apart(saved: dict[str, Any]) -> None:
    names = [f"strategy {number}" for number in range(15)]
    scores([score(name, setting, 0.5) for name in names for setting in SETTINGS], "acc", True, Path("s.png"))
    [axes] = saved["s"].axes
    found = [each.lines[0] for each in axes.containers]
    assert legend(axes) == names
    assert len({(line.get_color(), line.get_marker()) for line in found}) == len(names)
    places = [[line.get_xdata()[setting] for line in found] for setting in range(3)]
    for setting, own in enumerate(places):
        assert own == sorted(own)
        assert setting - 0.5 < own[0] < own[-1] < setting + 0.5


def test_losses_are_lines_of_their_points(saved: dict[str, Any]) -> None:
    curves = {
        "full, seed 0": [(1, 3.0), (5, 2.0)],
        "full, seed 1": [(1, 3.5), (5, 2.5), (9, 0.01)],
        "uniform, seed 0": [(1, 4.0), (2, 3.0)],
        "crash, seed 0": [(1, 5.0), (2, 1.0)],
        "crash, seed 1": [(1, 6.0), (2, 1.5)],
    }
    loss_curves(curves, Path("losses.png"))
    [axes] = saved["losses"].axes
    found = axes.get_lines()
    assert [points(line) for line in found] == list(curves.values())
    shades = [colour(line.get_color()) for line in found]
    # The colours that the strategies have among the scores, whose full model is grey too.
    assert shades == [colour(shade) for shade in (GREY, GREY, CYCLE[0], CYCLE[1], CYCLE[1])]
    assert legend(axes) == list(named(axes)) == ["full", "uniform", "crash"]
    assert [colour(line.get_color()) for line in named(axes).values()] == [shades[0], shades[2], shades[3]]
    assert axes.get_yscale() == "log"
    assert shown_ticks(axes) == {place: f"{place:g}" for place in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)}
    assert title(axes) == "Training loss"
    assert words(axes.texts) == ["one line a tuning seed"]
    assert labels(axes) == ("step", "loss on answers (nats per token)")


@pytest.mark.parametrize(
    ("losses", "places"),
    [
        ((4.2, 2.1), (2.5, 3, 3.5, 4)),
        ((0.9, 0.2), (0.2, 0.4, 0.6, 0.8)),
        ((3.1, 0.4), (0.5, 1, 2)),
        ((2.0001, 2.0), (2, 2.000025, 2.00005, 2.000075, 2.0001)),
        ((700.0, 0.0004), (0.001, 0.01, 0.1, 1, 10, 100, 1000)),
    ],
)
def test_losses_have_ticks_in_plain_numbers(
    saved: dict[str, Any], losses: tuple[float, float], places: tuple[float, ...]
) -> None:
    loss_curves({"full, seed 0": [(1, losses[0]), (2, losses[1])]}, Path("losses.png"))
    [axes] = saved["losses"].axes
    assert list(shown_ticks(axes)) == pytest.approx(places)
    assert [float(name) for name in shown_ticks(axes).values()] == list(places), "no power of ten, no other digits"
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))


def test_losses_of_many_strategies_can_be_told_apart(saved: dict[str, Any]) -> None:
    names = ["full", *(f"strategy {number}" for number in range(15))]
    curves = {f"{name}, seed {seed}": [(1, 2.0), (2, 1.0)] for name in names for seed in (0, 1)}
    loss_curves(curves, Path("losses.png"))
    [axes] = saved["losses"].axes
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()]
    assert looks[::2] == looks[1::2], "seeds of one strategy look alike"
    assert len(set(looks)) == len(names)
    assert legend(axes) == names
