"""The demo's study with every part: how long it takes, and that nothing is computed when it runs again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.commands import DEMO, artifacts, crash, stages

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]


def test_the_whole_study_takes_minutes_and_is_found_again(tmp_path: Path, row: Callable[[str, str, str], None]) -> None:
    command = ["study", str(DEMO / "study.toml"), "--set", f"place.home={tmp_path / 'home'}"]
    times, kept = [], []
    for _ in range(2):
        began = time.monotonic()
        done = crash(*command, timeout=1000)
        times.append(time.monotonic() - began)
        assert done.returncode == 0, done.stdout + done.stderr
        kept.append(artifacts(tmp_path / "home/store"))
    made = stages(set(kept[0]))
    parts = ("structure", "cross", "lens", "distances", "trajectory", "importance", "landscape", "weights")
    parts = (*parts, "dataset_distances")
    assert all(made[part] for part in parts), made
    row("the demo's study, every part", f"{times[0]:.0f} s", "<= 300 s")
    row("  again", f"{times[1]:.1f} s", "nothing computed")
    assert kept[0] == kept[1]
    assert times[0] <= 300
