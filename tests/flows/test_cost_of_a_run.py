"""The estimate of a small run beside what the run then leaves in its store."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.flows.commands import crash, small_settings


@pytest.mark.xdist_group("flow")
def test_stages_and_disk_are_those_of_the_run(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    planned = crash("plan-cost", str(settings), "--json")
    assert planned.returncode == 0, planned.stderr
    assert not (tmp_path / "home").exists()
    done = crash("run", str(settings))
    assert done.returncode == 0, done.stdout + done.stderr

    found = {row["stage"]: row for row in json.loads(planned.stdout)["stages"]}
    found["tune"] = {key: found["tune"][key] + found["full_tune"][key] for key in ("count", "disk_bytes")}
    del found["full_tune"]
    sizes: Counter = Counter()
    counts: Counter = Counter()
    for folder in (tmp_path / "home/store/artifacts").glob("*/*"):
        stage = folder.parent.name
        counts[stage] += 1
        sizes[stage] += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert {stage: row["count"] for stage, row in found.items()} == counts
    for stage, row in found.items():
        # What is not tensors is a few kilobytes of each artifact.
        assert row["disk_bytes"] == pytest.approx(sizes[stage], rel=0.1, abs=1000 * counts[stage]), stage
