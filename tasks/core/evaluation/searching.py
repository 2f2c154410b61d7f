"""Plans of a search in numbers: what each gained by validation loss, what no other beats, what proxies foretold."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.evaluation.comparison import Score, mean_score
from tasks.core.evaluation.pareto import frontier
from tasks.core.evaluation.ranking import PROXIES, Agreement, agreement

Row = dict[str, Any]
LOSSES = ("emulator_loss", "plug_in_loss", "gain", "leak", "privacy_gap")


def loss_differences(zero_shot: float, emulator: Sequence[float], plugged: Sequence[float]) -> dict[str, float | None]:
    """Mean over tuning seeds, and standard error, of both losses and of what follows; None where nothing was tuned.

    zero_shot: loss of the full model; emulator, plugged: of the tuned emulator and of the full model with the tuned
    blocks, the same seeds in the same order. Losses in nats; positive differences are better or larger, as accuracies
    have them: gain = zero_shot - plugged, leak = zero_shot - emulator, privacy gap = emulator - plugged.
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
    """Numbered (`number`, from 1), best plug-in loss first, then what was not measured, then what was left out.

    `on_frontier`: whether no measured plan has at least as much gain and privacy gap with as few bytes, and more of
    one; None where nothing was measured. Equal losses: fewer bytes first.
    """
    measured = [row for row in rows if row["gain"] is not None]
    best = frontier([(row["gain"], row["privacy_gap"], -row["num_bytes"]) for row in measured])
    marked = [{**row, "on_frontier": on} for row, on in zip(measured, best, strict=True)]
    marked.sort(key=lambda row: (row["plug_in_loss"], row["num_bytes"]))
    others = [{**row, "on_frontier": None} for row in rows if row["gain"] is None]
    others.sort(key=lambda row: row["reason"] is not None)
    return [{"number": number, **row} for number, row in enumerate([*marked, *others], start=1)]


def proxy_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Agreement | None]:
    """Rank correlation of each proxy with the measured gain, turned so that positive means that it foretold it."""
    measured = [row for row in rows if row["gain"] is not None]
    gains = [row["gain"] for row in measured]
    return {name: agreement([sign * row[name] for row in measured], gains) for name, sign in PROXIES.items()}
