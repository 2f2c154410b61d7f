"""Compare pairs of a party's scores: the emulator with the full model, and models before and after a plug-in."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.core.evaluation.recovery import capability

Row = Mapping[str, Any]


def capability_facts(rows: Sequence[Row]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the emulator's share of the full model's score: on the run's own task, and on held-out tasks.

    rows: scores by setting, or setting/task, as in `PartyReport`.
    """
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    for task, full, emulator in _pairs(rows, "full_zero_shot", "emulator_zero_shot"):
        share = capability(emulator["value"], full["value"], full["higher_is_better"])
        if share is not None:
            name = f"emulator's share of the full model's score{f' on {task}' if task else ''} (CPL)"
            found[bool(task)][name] = f"{share:.1%}"
    return found


def worse_facts(rows: Sequence[Row]) -> dict[str, str]:
    """Return which scores tuned blocks made worse by more than two standard errors of the difference.

    A score without a standard error counts as worse at any difference. Empty where nothing was plugged in.
    """
    pairs = list(_pairs(rows, "full_zero_shot", "plug_in"))
    worse = [
        f"{task}{': ' if task else ''}{before['metric']} {before['value']:.3f} -> {after['value']:.3f}"
        for task, before, after in pairs
        if _is_worse(before, after)
    ]
    return {"scores that the tuned blocks make worse": "; ".join(worse) or "none"} if pairs else {}


def gap_facts(rows: Sequence[Row]) -> dict[str, str]:
    """Return the privacy gap of each task: by how much the plugged model is better than the tuned emulator."""
    found = {}
    for task, emulator, plugged in _pairs(rows, "emulator_tuned", "plug_in"):
        gap = plugged["value"] - emulator["value"]
        better = gap if plugged["higher_is_better"] else -gap
        found[f"privacy gap{f' on {task}' if task else ''} ({plugged['metric']})"] = f"{better:+.3f}"
    return found


def _pairs(rows: Sequence[Row], first: str, second: str) -> Iterator[tuple[str, Row, Row]]:
    """Yield each task that was scored in both settings, "" for the run's own, and its two scores."""
    by_setting = {row["setting"]: row for row in rows}
    for setting, row in by_setting.items():
        name, slash, task = setting.partition("/")
        if name == first and (other := by_setting.get(f"{second}{slash}{task}")):
            yield task, row, other


def _is_worse(before: Row, after: Row) -> bool:
    change = after["value"] - before["value"]
    error = math.hypot(before["stderr"] or 0.0, after["stderr"] or 0.0)
    return (-change if before["higher_is_better"] else change) > 2 * error
