"""Stages of two machines with one object store: computed once, and parents come from wherever they were made."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.store.metrics import METRICS_FILE, read_metrics
from tests.places import ROOT
from tests.store.objects import Objects
from tests.store.sample_stages import number, surroundings

ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')


def machine(tmp_path: Path, objects: Objects, name: str) -> Runtime:
    return Runtime(store=str(tmp_path / name), store_url=objects.url, run_id=str(tmp_path / name))


def test_parents_come_from_where_they_were_made(objects, tmp_path):
    first, second = (machine(tmp_path, objects, name) for name in "ab")
    parents = [number.run(first, value=value) for value in (1, 2)]
    child = number.run(second, value=10, parents=parents)
    assert child.summary["total"] == 13
    assert sorted(path.name for path in Path(second.store).glob("artifacts/number/*")) == sorted(
        ref.key for ref in (*parents, child)
    )
    assert number.run(first, value=10, parents=parents) == child
    assert not (Path(first.store) / "artifacts/number" / child.key).exists(), "found without being downloaded"
    assert objects.names("leases") == objects.names("work") == []


class Watching:
    """Tracking that notes the metrics of what is finished."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def stage_started(self, stage, label, key) -> None: ...

    def stage_metrics(self, stage, key, path) -> None: ...

    def stage_finished(self, stage, label, artifact, cached) -> None:
        assert cached
        self.losses = [entry["loss"] for entry in read_metrics(artifact.folder / METRICS_FILE)]


def test_a_stage_that_another_machine_computed_shows_its_metrics(objects, tmp_path):
    ref = surroundings.run(machine(tmp_path, objects, "a"))
    other, watching = machine(tmp_path, objects, "b"), Watching()
    with sharing(other, RunContext(Resources(2), watching)):
        assert surroundings.run(other) == ref
    assert watching.losses == [0.5, 0.25]
    assert not (Path(other.store) / "artifacts").exists()
    assert list((Path(other.store) / "tmp").iterdir()) == []


def test_a_stage_whose_result_the_network_refuses_is_not_computed_again(objects, tmp_path, monkeypatch):
    runtime, log = machine(tmp_path, objects, "a"), tmp_path / "log"
    store = runtime.open_store()
    upload = store.remote.upload

    def refuse(path, name) -> None:
        raise EnvironmentFault("the network is away")

    monkeypatch.setattr(store.remote, "upload", refuse)
    with pytest.raises(EnvironmentFault, match=r"is kept in .* and the next run sends it"):
        number.run(runtime, value=7, log=str(log))
    monkeypatch.setattr(store.remote, "upload", upload)
    ref = number.run(runtime, value=7, log=str(log))
    assert log.read_text() == "7\n"
    assert machine(tmp_path, objects, "b").open_store().open(ref).is_dir()


def start(module: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen:
    """A module as a process, perhaps on another machine."""
    command = [*before, sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen) -> str:
    """What it printed, once it has ended well."""
    out, err = process.communicate(timeout=120)
    if "unshare failed" in err:
        pytest.skip(f"host names of one's own are not allowed here: {err.strip()}")
    assert process.returncode == 0, err
    return out


def test_f27_two_machines_compute_each_key_once(objects, tmp_path):
    log, count = tmp_path / "log", 40
    machines = [
        start("tests.store.sharer", tmp_path / str(place), objects.url, log, place, count, before=before)
        for place, before in enumerate([(), ELSEWHERE])
    ]
    results = [dict(line.split() for line in ended(process).splitlines()) for process in machines]
    begun = [line.split() for line in log.read_text().splitlines()]
    assert max(Counter(seed for seed, _ in begun).values()) == 1, "each key once in total"
    assert {host for _, host in begun} == {os.uname().nodename, "elsewhere"}, "both had their share"
    common = results[0].keys() & results[1].keys()
    assert common
    assert all(results[0][key] == results[1][key] for key in common)
    assert objects.names("leases") == []
    assert len(begun) == len(results[0].keys() | results[1].keys())


def test_what_a_killed_machine_was_computing_is_computed_by_another(objects, tmp_path):
    log, count = tmp_path / "log", 12
    killed = start("tests.store.sharer", tmp_path / "a", objects.url, log, 0, count, 600, before=ELSEWHERE)
    while not log.exists() or not log.read_text().endswith("\n"):
        assert killed.poll() is None, ended(killed)
    killed.kill()
    killed.communicate()
    [lost] = log.read_text().splitlines()
    ended(start("tests.store.sharer", tmp_path / "b", objects.url, log, 0, count))
    begun = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert begun.pop(lost.split()[0]) == 2
    assert set(begun.values()) == {1}


def test_two_hosts_on_one_shared_directory_compute_each_key_once(tmp_path):
    store, count = tmp_path / "store", 60
    store.mkdir()
    hosts = [
        start("tests.faults.publisher", store, seed, count, before=before) for seed, before in ((1, ()), (2, ELSEWHERE))
    ]
    for process in hosts:
        ended(process)
    begun = Counter((store / "log").read_text().split())
    assert max(begun.values()) == 1
    assert len(begun) == len(list(store.glob("artifacts/*/*")))
