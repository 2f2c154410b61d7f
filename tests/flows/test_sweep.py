"""The real command: a grid in one process, where a failed cell fails alone and is retried alone."""

import json
from pathlib import Path

import pytest

from tests.flows.commands import artifacts, crash, small_settings, stages

pytestmark = pytest.mark.xdist_group("sweep")


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


def test_bad_cells_are_refused_before_anything_is_computed(settings):
    refused = crash("sweep", str(settings), "--set", "plan.num_kept=[5, 99]")
    assert refused.returncode == 2
    assert "plan.num_kept = 99" in refused.stderr
    assert not list(settings.parent.glob("home/store/artifacts/capture/*"))
