"""Collect: every cell's scores in one table, what failed beside it, and every strategy against uniform."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.engine.runtime import Runtime
from tasks.reports.sweep.tables import sections
from tasks.store.artifacts import Ref, Store
from tasks.store.keys import canonical_json
from tasks.sweep_report import collect

SETTINGS = ("emulator_zero_shot", "emulator_fine_tuned", "plug_in", "gain", "leak", "privacy_gap")
NUM_ROWS = 40


def report(
    store: Store,
    number: int,
    strategies: tuple[str, ...] = ("crash",),
    task: str = "people",
    model: str = "model",
    emulator: str = "emulate",
) -> Ref:
    """A report as the stage of that name writes it; the plug-in answers number of ten rows right."""
    rows = [{"strategy": "full", "setting": "full_zero_shot", "value": 0.1, "stderr": 0.01}]
    for place, strategy in enumerate(strategies):
        rows += [
            {"strategy": strategy, "setting": name, "value": number / 10 + place, "stderr": 0.02} for name in SETTINGS
        ]
    rows = [{**row, "metric": "acc", "num_seeds": 1, "error_over": "rows"} for row in rows]
    facts = {"model": model, "task": task, "num_blocks": 24, "num_kept": 12, "num_tuned": 4}
    facts["published_as"] = {name: name for name in ("full", *strategies)}
    spending = {"full": {"trained_parameters": 100}}
    spending |= {
        name: {"disclosed_parameters": 60, "disclosed_share": 0.6, "returned_bytes": 80} for name in strategies
    }
    inputs = {"number": number, "strategies": list(strategies), "task": task, "model": model, "emulator": emulator}
    key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
    summary = {"efforts": {name: {"tuning_seconds": 2.5, "peak_memory_gib": 0.25} for name in strategies}}
    with store.publishing("report", key) as out:
        content = {"rows": rows, "comparison": {"metric": "acc"}, "facts": facts, "spending": spending}
        content["emulators"] = dict.fromkeys(strategies, emulator)
        (out / "report.json").write_text(json.dumps(content))
        right = (np.arange(NUM_ROWS) % 10 < number).astype(np.float64)
        save_file({name: np.roll(right, place) for place, name in enumerate(strategies)}, out / "outcomes.safetensors")
        return store.publish("report", key, out, inputs, summary=summary).ref


@pytest.fixture
def cells(tmp_path: Path) -> list[dict]:
    store = Store(tmp_path)
    return [
        {"values": {"plan.num_kept": 4, "tune.learning_rate": 1e-4}, "report": report(store, 3), "error": None},
        {"values": {"plan.num_kept": 6, "tune.learning_rate": 1e-4}, "report": report(store, 5), "error": None},
        {"values": {"plan.num_kept": 8, "tune.learning_rate": 1e-4}, "report": None, "error": "the loss is not finite"},
    ]


def collected(tmp_path: Path, axes: list[str], cells: list[dict]) -> Path:
    """Folder of the table."""
    return Store(tmp_path).open(collect.run(Runtime(store=str(tmp_path)), axes=axes, cells=cells))


def long(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def test_one_row_a_cell_and_the_failed_one_by_name(tmp_path, cells):
    axes = ["plan.num_kept", "tune.learning_rate"]
    folder = collected(tmp_path, axes, cells)
    text = (folder / "table.md").read_text()
    assert text.startswith("2 of 3 cells: people with model, acc\n")
    assert "| 4 " in text
    assert "| 6 " in text
    assert "- plan.num_kept=8, tune.learning_rate=0.0001: the loss is not finite" in text
    assert "| full tuned" not in text, "nobody tuned the full model"
    rows = long(folder)
    plugged = {row["plan.num_kept"]: float(row["value"]) for row in rows if row["setting"] == "plug_in"}
    assert plugged == {"4": 0.3, "6": 0.5}
    [failed] = [row for row in rows if row["error"]]
    assert (failed["plan.num_kept"], failed["error"]) == ("8", "the loss is not finite")
    wide = (folder / "table_wide.csv").read_text().splitlines()
    assert wide[-1].endswith("the loss is not finite")
    page = (folder / "table.html").read_text()
    assert "the loss is not finite" in page
    assert "<script" not in page
    assert "http" not in page


def test_sizes_and_efforts_are_rows_with_their_unit(tmp_path, cells):
    folder = collected(tmp_path, ["plan.num_kept"], cells[:1])
    figures = {(row["strategy"], row["setting"]): (row["value"], row["metric"]) for row in long(folder)}
    assert figures["crash", "disclosed_parameters"] == ("60", "parameters")
    assert figures["crash", "disclosed_share"] == ("0.6", "share")
    assert figures["crash", "tuning_seconds"] == ("2.5", "s")
    assert figures["full", "trained_parameters"] == ("100", "parameters")
    text = (folder / "table.md").read_text()
    assert "60%" in text
    assert "2.5 s" in text
    assert "0.25 GiB" in text


def test_the_full_models_tuning_stands_there_once(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"variant": name, "plan.num_kept": 4}, "report": report(store, 3, (name,))}
        for name in ("uniform", "crash")
    ]
    found = json.loads((collected(tmp_path, ["variant", "plan.num_kept"], cells) / "sweep.json").read_text())
    table = next(each.table for each in sections(found) if each.title.startswith("Given away"))
    assert [line[:3] for line in table.rows] == [
        ["", "4", "full"],
        *([name, "4", name] for name in ("uniform", "crash")),
    ]
    assert table.rows[0][table.header.index("trained")] == "100"


def test_strategies_may_be_an_axis_themselves(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"strategy": ["uniform"], "plan.num_kept": 4}, "report": report(store, 3, ("uniform",))},
        {"values": {"strategy": ["crash"], "plan.num_kept": 4}, "report": report(store, 8, ("crash",))},
        {"values": {"strategy": ["random"], "plan.num_kept": 4}, "report": None, "error": "no memory"},
    ]
    folder = collected(tmp_path, ["strategy", "plan.num_kept"], cells)
    found = json.loads((folder / "sweep.json").read_text())
    assert [(test["strategy"], test["num_rows"]) for test in found["tests"]] == [("crash", NUM_ROWS)]
    assert {row["strategy"] for row in found["rows"]} == {"full", "uniform", "crash"}
    text = (folder / "table.md").read_text()
    assert text.startswith("2 of 3 cells")
    header = next(line for line in text.splitlines() if line.startswith("| plan.num_kept"))
    assert header.count("strategy") == 1
    assert "full zero-shot" in header
    assert "| failed (random) " in text


def test_every_strategy_is_compared_with_uniform_on_the_same_rows(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"variant": "plain", "tune.num_steps": 1}, "report": report(store, 3, ("uniform",))},
        {"values": {"variant": "ours", "tune.num_steps": 1}, "report": report(store, 8, ("crash",))},
        {"values": {"variant": "same", "tune.num_steps": 1}, "report": report(store, 3, ("random",))},
        {"values": {"variant": "ours", "tune.num_steps": 2}, "report": report(store, 9, ("crash",))},
    ]
    folder = collected(tmp_path, ["variant", "tune.num_steps"], cells)
    tests = json.loads((folder / "sweep.json").read_text())["tests"]
    assert [test["values"]["variant"] for test in tests] == ["ours", "same"], "of two steps there is no uniform"
    better, same = tests
    assert better["against"] == {"variant": "plain", "tune.num_steps": 1}
    assert better["difference"] == pytest.approx(0.5)
    assert better["low"] <= 0.5 <= better["high"]
    assert better["p_value"] < 0.001
    assert better["p_holm"] == pytest.approx(2 * better["p_value"])
    assert (same["difference"], same["p_value"]) == (0.0, 1.0)
    assert "Against uniform" in (folder / "table.md").read_text()


def test_uniform_is_the_plain_one_wherever_it_stands(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"variant": "KD"}, "report": report(store, 7, ("uniform",), emulator="distill")},
        {"values": {"variant": "uniform, longer"}, "report": report(store, 6, ("uniform",))},
        {"values": {"variant": "Uniform"}, "report": report(store, 3, ("uniform",))},
    ]
    tests = json.loads((collected(tmp_path, ["variant"], cells) / "sweep.json").read_text())["tests"]
    assert [(test["values"]["variant"], test["against"]["variant"]) for test in tests] == [
        ("KD", "Uniform"),
        ("uniform, longer", "Uniform"),
    ]
    assert [test["difference"] for test in tests] == pytest.approx([0.4, 0.3])
    alone = json.loads((collected(tmp_path, ["variant"], cells[:1]) / "sweep.json").read_text())["tests"]
    assert alone == [], "a distilled emulator is no uniform to compare with"


def test_tasks_stand_side_by_side_with_their_mean(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"task.name": task}, "report": report(store, number, task=task)}
        for task, number in (("piqa", 4), ("sciq", 6))
    ]
    folder = collected(tmp_path, ["task.name"], cells)
    wide = list(csv.DictReader((folder / "table_wide.csv").read_text().splitlines()))
    [plugged] = [row for row in wide if row["setting"] == "plug_in"]
    assert (float(plugged["piqa"]), float(plugged["sciq"]), float(plugged["mean"])) == (0.4, 0.6, 0.5)
    assert float(plugged["mean stderr"]) == pytest.approx(0.02 / 2**0.5)
    assert "By task" in (folder / "table.md").read_text()


def test_what_variants_share_stands_once_and_what_failed_in_its_place(tmp_path):
    store = Store(tmp_path)
    cells = [
        {"values": {"variant": name, "task.name": task}, "report": report(store, number, task=task)}
        for name, number in (("a", 4), ("b", 6))
        for task in ("piqa", "sciq")
    ]
    cells[0] = {"values": cells[0]["values"], "report": None, "error": "the loss is not finite"}
    folder = collected(tmp_path, ["variant", "task.name"], cells)
    wide = list(csv.DictReader((folder / "table_wide.csv").read_text().splitlines()))
    [full] = [row for row in wide if row["strategy"] == "full"]
    assert (full["variant"], full["piqa"], full["sciq"]) == ("", "0.1", "0.1")
    lines = (folder / "table.md").read_text().splitlines()
    [failed] = [line for line in lines if line.startswith("| a ") and "piqa" in line]
    assert [cell.strip() for cell in failed.split("|")][1:4] == ["a", "piqa", "failed"]
    [plugged] = [line for line in lines if line.startswith("| a ") and "plug_in" in line]
    assert "failed" in plugged
    assert "0.400" in plugged


def test_published_numbers_stand_beside_ours(tmp_path):
    cell = {
        "values": {"tune.num_steps": 1},
        "report": report(Store(tmp_path), 7, task="piqa", model="facebook/opt-1.3b"),
    }
    folder = collected(tmp_path, ["tune.num_steps"], [cell])
    [row] = [row for row in long(folder) if row["setting"] == "plug_in"]
    assert (float(row["published"]), row["source"]) == (pytest.approx(0.732), "CRaSh, table 1")
    assert float(row["standard_errors"]) == pytest.approx(-0.032 / (0.02**2 + 0.01**2) ** 0.5)
    assert "-1.4" in (folder / "table.md").read_text()


def test_a_cell_that_was_retried_makes_another_table(tmp_path, cells):
    runtime = Runtime(store=str(tmp_path))
    first = collect.run(runtime, axes=["plan.num_kept"], cells=cells)
    cells[2] |= {"report": report(Store(tmp_path), 7), "error": None}
    second = collect.run(runtime, axes=["plan.num_kept"], cells=cells)
    assert first.key != second.key
    assert second.summary == {"num_cells": 3, "num_failed": 0}
    assert "Failed" not in (Store(tmp_path).open(second) / "table.md").read_text()


def test_nothing_but_failures_is_still_a_table(tmp_path, cells):
    folder = collected(tmp_path, ["plan.num_kept"], cells[2:])
    assert (folder / "table.md").read_text().startswith("0 of 1 cells\n")
    assert "the loss is not finite" in (folder / "table_wide.csv").read_text()
