"""The pictures of a run's results: scores of every strategy, and losses of every tuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.reports.curves import STYLES
from tasks.reports.scales import plain_logarithmic
from tasks.reports.style import CYCLE, GREY, figure, plain, save, titled

MARKERS = ("o", "s", "^", "D")


def scores(rows: Sequence[Mapping[str, Any]], metric: str, higher_is_better: bool, path: Path) -> None:
    """Draw the five settings of each strategy with standard errors; the full model's two as lines in bands."""
    named = {
        "emulator_zero_shot": "emulator\nzero-shot",
        "emulator_fine_tuned": "emulator\ntuned",
        "plug_in": "plug-in",
    }
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "full"))
    made, axes = figure(7.2 if len(strategies) <= len(CYCLE) else 10.8, 4.2)
    # For any number of strategies, the three groups stay apart, and no two strategies look the same.
    step = min(0.14, 0.8 / len(strategies))
    _full_model_lines(axes, [row for row in rows if row["strategy"] == "full"])
    for number, strategy in enumerate(strategies):
        chosen = {row["setting"]: row for row in rows if row["strategy"] == strategy}
        shift = (number - (len(strategies) - 1) / 2) * step
        axes.errorbar(
            [place + shift for place in range(len(named))],
            [chosen[setting]["value"] for setting in named],
            [chosen[setting]["stderr"] or 0.0 for setting in named],
            fmt=MARKERS[number // len(CYCLE) % len(MARKERS)],
            color=CYCLE[number % len(CYCLE)],
            capsize=3,
            markersize=7,
            label=strategy,
        )
    axes.set_xticks(range(len(named)), list(named.values()))
    axes.set_xlim(-0.5, len(named) - 0.5)
    plain(axes)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    better = "higher is better" if higher_is_better else "lower is better"
    titled(axes, "The five settings", f"{better}; bars and bands are standard errors", ylabel=metric)
    save(made, path)


def _full_model_lines(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        tuned = row["setting"] == "full_fine_tuned"
        style, label = ("-", "full model, tuned") if tuned else ("--", "full model, zero-shot")
        axes.axhline(row["value"], color=GREY, linestyle=style, linewidth=1.4, label=label)
        if row["stderr"]:
            low, high = row["value"] - row["stderr"], row["value"] + row["stderr"]
            axes.axhspan(low, high, facecolor=GREY, alpha=0.18, linewidth=0, zorder=0.5)


def loss_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Draw the training loss by step of each tuning."""
    made, axes = figure(7.2, 4.0)
    groups = list(dict.fromkeys(name.rpartition(", ")[0] or name for name in curves))
    # A strategy has the same colour as in the picture of scores; where colours repeat, other dashes.
    strategies = [group for group in groups if group != "full"]
    looks = {"full": (GREY, "-")} | {
        group: (CYCLE[number % len(CYCLE)], STYLES[number // len(CYCLE) % len(STYLES)])
        for number, group in enumerate(strategies)
    }
    for name, points in curves.items():
        group = name.rpartition(", ")[0] or name
        color, style = looks[group]
        first = next(other for other in curves if (other.rpartition(", ")[0] or other) == group) == name
        steps, losses = zip(*points, strict=True)
        label = group if first else None
        axes.plot(steps, losses, color=color, linestyle=style, linewidth=1.2, alpha=0.8, label=label)
    plain_logarithmic(axes)
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    titled(axes, "Training loss", "one line a tuning seed", xlabel="step", ylabel="loss on answers (nats per token)")
    save(made, path)
