"""Whole runs on an object store that is away, goes away, or may only be read."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.flows.commands import CRASH, artifacts, clean_environment, crash, small_settings
from tests.store.objects import SECRET, forbid_writing

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.slow_faults]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return small_settings(tmp_path)


def run(settings: Path, url: str, *changes: str) -> subprocess.CompletedProcess[str]:
    return crash("run", str(settings), *changes, CRASH_STORE=url)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    return next(line for line in reversed(done.stderr.splitlines()) if "crash: " in line)


def computed(home: Path) -> list[int]:
    """How many stages each run computed, in order."""
    records = [json.loads(path.read_text()) for path in (home / "store/runs").glob("*.json")]
    return [record["computed"] for record in sorted(records, key=lambda record: record["finished"])]


def test_a_store_that_is_away_is_said_at_once(settings, objects):
    objects.stop()
    began = time.monotonic()
    done = run(settings, objects.url)
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - began < 30
    assert objects.url in last_line(done)
    assert "AWS_ENDPOINT_URL" in last_line(done)
    assert artifacts(settings.parent / "home/store") == {}


def test_a_store_that_goes_away_ends_the_run_and_nothing_is_computed_twice(settings, objects):
    home = settings.parent / "home"
    process = subprocess.Popen(
        [str(CRASH), "run", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(CRASH_STORE=objects.url),
    )
    deadline = time.monotonic() + 120
    while not list((home / "store/artifacts").glob("emulate/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    objects.stop()
    began = time.monotonic()
    out, err = process.communicate(timeout=120)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - began < 60
    assert objects.url in last_line(done)
    kept = artifacts(home / "store")
    assert kept
    objects.start()
    again = run(settings, objects.url)
    assert again.returncode == 0, again.stderr
    [before, after] = computed(home)
    assert 0 < before <= len(kept)
    assert {name: artifacts(home / "store")[name] for name in kept} == kept
    # What was computed and could not be sent is not in the first count, and is not computed again.
    assert after <= 22 - len(kept)
    sent = {name.rpartition("/")[0] for name in objects.names("artifacts") if name.endswith("/manifest.json")}
    assert len(sent) == 22


@pytest.mark.nightly
def test_credentials_that_only_read(settings, objects, monkeypatch, tmp_path):
    assert run(settings, objects.url).returncode == 0
    forbid_writing(monkeypatch)
    before = objects.names()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cached = run(small_settings(elsewhere), objects.url)
    assert cached.returncode == 0, cached.stderr
    assert "Report:" in cached.stdout
    assert computed(elsewhere / "home") == [0]
    miss = run(elsewhere / "settings.toml", objects.url, "--set", "tune.learning_rate=1e-3")
    assert miss.returncode == 4, miss.stderr
    assert objects.url in last_line(miss)
    assert "AccessDenied" in last_line(miss)
    assert objects.names() == before
    doctor = crash("doctor", "--home", str(elsewhere / "home"), CRASH_STORE=objects.url)
    assert doctor.returncode == 4
    assert "AccessDenied" in doctor.stdout
