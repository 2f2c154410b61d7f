"""Collect: every cell's scores in one table, and what failed beside it."""

import csv
import json
from pathlib import Path

import pytest

from tasks.collect import collect
from tasks.store.artifacts import Ref, Store
from tasks.store.keys import canonical_json
from tasks.store.runtime import Runtime

SETTINGS = ("emulator_zero_shot", "emulator_fine_tuned", "plug_in", "gain", "leak", "privacy_gap")


def report(store: Store, number: int) -> Ref:
    """A report as the stage of that name writes it."""
    import hashlib

    rows = [{"strategy": "full", "setting": "full_zero_shot", "value": 0.1, "stderr": 0.01}]
    rows += [{"strategy": "crash", "setting": name, "value": number / 10, "stderr": None} for name in SETTINGS]
    rows = [{**row, "metric": "acc", "num_seeds": 1, "error_over": "rows"} for row in rows]
    inputs = {"number": number}
    key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
    with store.publishing("report", key) as out:
        (out / "report.json").write_text(json.dumps({"rows": rows, "comparison": {"metric": "acc"}}))
        return store.publish("report", key, out, inputs).ref


@pytest.fixture
def cells(tmp_path: Path) -> list[dict]:
    store = Store(tmp_path)
    return [
        {"values": {"plan.num_kept": 4, "tune.learning_rate": 1e-4}, "report": report(store, 3), "error": None},
        {"values": {"plan.num_kept": 6, "tune.learning_rate": 1e-4}, "report": report(store, 5), "error": None},
        {"values": {"plan.num_kept": 8, "tune.learning_rate": 1e-4}, "report": None, "error": "the loss is not finite"},
    ]


def test_one_row_a_cell_and_the_failed_one_by_name(tmp_path, cells):
    axes = ["plan.num_kept", "tune.learning_rate"]
    ref = collect.run(Runtime(store=str(tmp_path)), axes=axes, cells=cells)
    folder = Store(tmp_path).open(ref)
    text = (folder / "table.md").read_text()
    assert text.startswith("2 of 3 cells: acc\n")
    assert "| 4 " in text
    assert "| 6 " in text
    assert "- plan.num_kept=8, tune.learning_rate=0.0001: the loss is not finite" in text
    assert "full tuned" not in text, "nobody tuned the full model"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(rows) == 2 * 7
    assert {row["plan.num_kept"] for row in rows} == {"4", "6"}
    plugged = {row["plan.num_kept"]: float(row["value"]) for row in rows if row["setting"] == "plug_in"}
    assert plugged == {"4": 0.3, "6": 0.5}
    assert ref.summary == {"num_cells": 3, "num_failed": 1}


def test_a_cell_that_was_retried_makes_another_table(tmp_path, cells):
    runtime = Runtime(store=str(tmp_path))
    first = collect.run(runtime, axes=["plan.num_kept"], cells=cells)
    cells[2] |= {"report": report(Store(tmp_path), 7), "error": None}
    second = collect.run(runtime, axes=["plan.num_kept"], cells=cells)
    assert first.key != second.key
    assert second.summary == {"num_cells": 3, "num_failed": 0}
    assert "Failed" not in (Store(tmp_path).open(second) / "table.md").read_text()


def test_nothing_but_failures_is_still_a_table(tmp_path, cells):
    ref = collect.run(Runtime(store=str(tmp_path)), axes=["plan.num_kept"], cells=cells[2:])
    assert (Store(tmp_path).open(ref) / "table.md").read_text().startswith("0 of 1 cells\n")
