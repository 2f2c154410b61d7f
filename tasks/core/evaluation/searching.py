"""Results of a search: differences of validation losses, the Pareto frontier, and agreement of the proxies."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.evaluation.comparison import Score, mean_score
from tasks.core.evaluation.pareto import frontier
from tasks.core.evaluation.ranking import PROXIES, Agreement, agreement

Row = dict[str, Any]
LOSSES = ("emulator_loss", "plug_in_loss", "gain", "leak", "privacy_gap")


def loss_differences(zero_shot: float, emulator: Sequence[float], plugged: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error over tuning seeds of both losses and their differences; None when nothing was tuned.

    zero_shot: loss of the full model; emulator, plugged: losses of the tuned emulator and of the plug-in, the same
    seeds in the same order. Losses are in nats. Positive differences are better or larger, as with accuracies:
    gain = zero_shot - plugged, leak = zero_shot - emulator, privacy gap = emulator - plugged.
    """
    if not plugged:
        return {key: None for name in LOSSES for key in (name, f"{name}_stderr")}
    pairs = list(zip(emulator, plugged, strict=True))
    values = {
        "emulator_loss": list(emulator),
        "plug_in_loss": list(plugged),
        "gain": [zero_shot - loss for loss in plugged],
        "leak": [zero_shot - loss for loss in emulator],
        "privacy_gap": [before - after for before, after in pairs],
    }
    found: dict[str, float | None] = {}
    for name, each in values.items():
        mean = mean_score([Score(value) for value in each])
        found |= {name: mean.value, f"{name}_stderr": mean.stderr}
    return found


def order(rows: Sequence[Row]) -> list[Row]:
    """Sort and number the plans (`number`, from 1): best plug-in loss first, then not measured, then left out.

    On equal losses, fewer bytes come first. `on_frontier`: whether the plan is on the Pareto frontier of gain, privacy
    gap and few bytes; None for plans that were not measured.
    """
    measured = [row for row in rows if row["gain"] is not None]
    best = frontier([(row["gain"], row["privacy_gap"], -row["num_bytes"]) for row in measured])
    marked = [{**row, "on_frontier": on} for row, on in zip(measured, best, strict=True)]
    marked.sort(key=lambda row: (row["plug_in_loss"], row["num_bytes"]))
    others = [{**row, "on_frontier": None} for row in rows if row["gain"] is None]
    others.sort(key=lambda row: row["reason"] is not None)
    return [{"number": number, **row} for number, row in enumerate([*marked, *others], start=1)]


def proxy_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Agreement | None]:
    """Rank correlation of each proxy with the measured gain; positive means that the proxy predicts the gain."""
    measured = [row for row in rows if row["gain"] is not None]
    gains = [row["gain"] for row in measured]
    return {name: agreement([sign * row[name] for row in measured], gains) for name, sign in PROXIES.items()}
