"""Two workers with folders of their own and one object store run the same settings at once (issue B, test 3)."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.commands import CRASH, artifacts, clean_environment, crash, small_settings
from tests.store.objects import Objects

ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
NUM_STAGES = 22


def start(settings: Path, url: str, *before: str) -> subprocess.Popen:
    """`crash run`, perhaps on another machine."""
    return subprocess.Popen(
        [*before, str(CRASH), "run", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(CRASH_STORE=url),
    )


def record(home: Path) -> dict:
    """The record of the only run with this home folder."""
    [path] = (home / "store/runs").glob("*.json")
    return json.loads(path.read_text())


def published(objects: Objects) -> dict[str, str]:
    """`stage/key` to content digest of all artifacts in the object store."""
    found = {}
    for name in objects.names("artifacts"):
        if name.endswith("/manifest.json"):
            manifest = json.loads(objects.read(name))
            found[f"{manifest['stage']}/{manifest['key']}"] = manifest["digest"]
    return found


@pytest.mark.slow_faults
def test_each_stage_is_computed_once_in_total_and_both_have_the_same(objects, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    workers = []
    for folder, before in zip(folders, ((), ELSEWHERE), strict=True):
        folder.mkdir()
        workers.append(start(small_settings(folder), objects.url, *before))
    for worker in workers:
        _, err = worker.communicate(timeout=500)
        if "unshare failed" in err:
            pytest.skip(f"host names of one's own are not allowed here: {err.strip()}")
        assert worker.returncode == 0, err
    first, second = (record(folder / "home") for folder in folders)
    assert first["refs"] == second["refs"]
    assert first["report"] == second["report"]
    assert len(first["refs"]) == len(published(objects)) == NUM_STAGES
    # The check of the inputs comes before a run has its record.
    assert first["computed"] + second["computed"] == NUM_STAGES - 1
    # Who is first at one stage is often first at the next one, so that the other may compute none at all.
    begins = [datetime.fromisoformat(run["started"]) for run in (first, second)]
    ends = [datetime.fromisoformat(run["finished"]) for run in (first, second)]
    assert max(begins) < min(ends), "they ran at the same time"
    for folder in folders:
        here = artifacts(folder / "home/store")
        assert here.items() <= published(objects).items(), "the same digests everywhere"
    assert objects.names("leases") == objects.names("work") == []
    listed = crash("runs", "--home", str(tmp_path / "nowhere"), "--store", objects.url)
    assert listed.stdout.count(" completed ") == 2
    alone = tmp_path / "alone"
    alone.mkdir()
    assert crash("run", str(small_settings(alone)), timeout=500).returncode == 0
    # Figures and timings of the report differ from run to run; what was computed does not.
    for name, digest in artifacts(alone / "home/store").items():
        if not name.startswith("report/"):
            assert published(objects).get(name, digest) == digest, name
