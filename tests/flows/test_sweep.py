"""The real command: a grid in one process, where a failed cell fails alone and is retried alone."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest

from flows.sweeps.cells import Cell, Outcome, _outcome
from tests.flows.commands import artifacts, crash, small_settings, stages

FIGURES = (
    *("disclosed_share", "disclosed_parameters", "trained_parameters", "returned_bytes"),
    *("tuning_seconds", "peak_memory_gib"),
)
pytestmark = [pytest.mark.usefixtures("one_prefect")]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Two budgets and two rates, of which the second cannot work."""
    path = small_settings(tmp_path)
    text = path.read_text().replace("num_kept = 6", "num_kept = [5, 6]").replace('["uniform", "crash"]', '["crash"]')
    text = text.replace("learning_rate = 5e-4", "learning_rate = [5e-4, 1e30]")
    path.write_text(text.replace("[plan]", "[full_tune]\nenabled = false\n[plan]"))
    return path


def test_a_failed_cell_fails_alone_and_is_retried_alone(settings):
    home = settings.parent / "home"
    first = crash("sweep", str(settings))
    assert first.returncode == 4, first.stderr
    assert "2 of 4 cells failed" in first.stderr
    assert "tune.learning_rate=1e+30" in first.stderr
    (table,) = (home / "store").glob("artifacts/collect/*/sweep.json")
    found = json.loads(table.read_text())
    assert len(found["failed"]) == 2
    assert all("not finite" in each["error"] for each in found["failed"])
    assert {row["plan.num_kept"] for row in found["rows"]} == {5, 6}
    made = stages(set(artifacts(home / "store")))
    assert made["report"] == made["plug_in"] == 2
    assert made["capture"] == made["similarity"] == 1

    settings.write_text(settings.read_text().replace("1e30", "4e-4"))
    kept = {name: (home / "store/artifacts" / name).stat().st_ino for name in artifacts(home / "store")}
    second = crash("sweep", str(settings))
    assert second.returncode == 0, second.stderr
    assert "4 of 4 cells" in second.stdout
    assert {name: (home / "store/artifacts" / name).stat().st_ino for name in kept} == kept
    assert stages(set(artifacts(home / "store")))["report"] == 4


def test_a_mistake_of_ours_in_one_cell_leaves_the_others(caplog):
    ended: Future = Future()
    ended.set_exception(ValueError("a bug"))
    cell = Cell({"plan.num_kept": 5}, None)
    assert _outcome(cell, ended) == Outcome(cell, error="ValueError: a bug")
    assert "the cell plan.num_kept=5 failed" in caplog.text
    assert "Traceback" in caplog.text


VARIANTS = """
[[variants]]
name = "uniform"
strategy = "uniform"
[[variants]]
name = "crash"
strategy = "crash"
[[variants]]
name = "crash without sharing"
strategy = "crash"
plan.share = "none"
"""


@pytest.mark.nightly
def test_variants_compute_what_they_have_in_common_once(tmp_path):
    settings = small_settings(tmp_path)
    settings.write_text(settings.read_text().replace('strategy = ["uniform", "crash"]\n', "") + VARIANTS)
    refused = crash("sweep", str(settings), "--set", "tune.seeds=[[0, 1]]", "--set", "plan.num_kept=[6, 99]")
    assert refused.returncode == 2
    assert "the cell variant=uniform, plan.num_kept=99" in refused.stderr
    settings.write_text(settings.read_text().replace("plan.share", "plan.shar"))
    refused = crash("sweep", str(settings))
    assert refused.returncode == 2
    assert "'crash without sharing' sets plan.shar" in refused.stderr
    assert "did you mean share?" in refused.stderr
    assert not list(tmp_path.glob("home/store/artifacts/capture/*"))

    settings.write_text(settings.read_text().replace("plan.shar", "plan.share"))
    done = crash("sweep", str(settings), "--set", "tune.seeds=[[0, 1]]")
    assert done.returncode == 0, done.stdout + done.stderr
    made = stages(set(artifacts(tmp_path / "home/store")))
    # The check of the inputs, and for the full model one plan and one tuning and one scoring for each seed.
    assert made["capture"] == made["similarity"] == made["check"] == 1
    # Both ways of crash keep the same blocks, but run them otherwise.
    assert (made["cluster"], made["emulate"], made["tune"]) == (4, 3, 2 * (3 + 1))
    assert made["evaluate"] == 1 + 2 + 3 * (1 + 2 + 2)
    (folder,) = (tmp_path / "home/store/artifacts/collect").iterdir()
    found = json.loads((folder / "sweep.json").read_text())
    assert found["axes"] == ["tune.seeds", "variant"] or found["axes"] == ["variant", "tune.seeds"]
    assert [test["values"]["variant"] for test in found["tests"]] == ["crash", "crash without sharing"]
    assert {test["num_rows"] for test in found["tests"]} == {24}
    rows = {(row["variant"], row["strategy"], row["setting"]): row for row in found["rows"]}
    for variant, strategy in (("uniform", "uniform"), ("crash", "crash"), ("crash without sharing", "crash")):
        own = {name: rows[variant, strategy, name]["value"] for name in FIGURES}
        assert 0.4 < own["disclosed_share"] < 0.7, "six of twelve blocks and what is no block"
        assert own["trained_parameters"] < own["disclosed_parameters"]
        assert 4 * own["trained_parameters"] < own["returned_bytes"] < 4 * own["trained_parameters"] + 20_000
        assert own["tuning_seconds"] > 0
        assert 0.05 < own["peak_memory_gib"] < 8
        assert rows[variant, strategy, "plug_in"]["num_seeds"] == 2
    for name in ("table.csv", "table_wide.csv", "table.md", "table.html"):
        assert "crash without sharing" in (folder / name).read_text()
    assert "outcomes" not in (folder / "sweep.json").read_text()


def test_bad_cells_are_refused_before_anything_is_computed(settings):
    refused = crash("sweep", str(settings), "--set", "plan.num_kept=[5, 99]")
    assert refused.returncode == 2
    assert "plan.num_kept = 99" in refused.stderr
    assert not list(settings.parent.glob("home/store/artifacts/capture/*"))
