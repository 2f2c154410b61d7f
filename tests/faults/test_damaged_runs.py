"""Whole runs whose store was damaged, emptied in part, or filled up while they computed."""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.commands import CRASH, artifacts, clean_environment, crash, small_settings

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.slow_faults]
QUICK = ("--set", "strategy=uniform", "--set", "full_tune.enabled=false")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    """The largest file of an artifact that is not its manifest."""
    return max((path for path in folder.iterdir() if path.suffix != ".jsonl"), key=lambda path: path.stat().st_size)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "f11 truncated": lambda folder: os.truncate(largest(folder), largest(folder).stat().st_size - 1),
    "f12 a bit flipped": lambda folder: flip(largest(folder)),
    "f12 a bit flipped in the manifest": lambda folder: flip(folder / "manifest.json"),
    "f13 the manifest deleted": lambda folder: (folder / "manifest.json").unlink(),
    "f13 deleted": shutil.rmtree,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run that has ended well."""
    settings = small_settings(tmp_path_factory.mktemp("finished"))
    done = crash("run", str(settings), *QUICK)
    assert done.returncode == 0, done.stderr
    return settings


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_f11_f12_f13_a_run_repairs_what_was_damaged(finished, first):
    store = finished.parent / "home/store"
    before = artifacts(store)
    # Every second artifact: parents of sound children as well as children of sound parents, each in another way.
    hit = dict(zip(sorted(before)[first::2], itertools.cycle(DAMAGES), strict=False))
    assert set(hit.values()) == set(DAMAGES)
    whole = {name: (store / "artifacts" / name).stat().st_ino for name in before if name not in hit}
    for name, how in hit.items():
        DAMAGES[how](store / "artifacts" / name)
    shutil.rmtree(store / "quarantine", ignore_errors=True)
    done = crash("run", str(finished), *QUICK)
    assert done.returncode == 0, done.stderr
    assert artifacts(store) == before
    assert {name: (store / "artifacts" / name).stat().st_ino for name in whole} == whole
    damaged = [name for name, how in hit.items() if how != "f13 deleted"]
    assert len(list(store.glob("quarantine/*"))) == len(damaged)
    assert (done.stdout + done.stderr).count("is damaged") == len(damaged)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_f8_a_disk_that_fills_up_during_a_run(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    settings = small_settings(tmp_path)
    command = f"{CRASH} run {settings} {' '.join(QUICK)} --set tune.num_steps=100 --set place.store={store}"
    # The ballast takes what is left as soon as tuning has begun; the deadline keeps the watcher from staying.
    fill = (
        f"for _ in $(seq 6000); do if ls -d {store}/tmp/*-tune-* >/dev/null 2>&1; then"
        f" dd if=/dev/zero of={store}/ballast bs=64k 2>/dev/null || true; echo filled; break; fi; sleep 0.02; done"
    )
    script = (
        f"mount -t tmpfs -o size=320m tmpfs {store}; ({fill}) & {command} >{tmp_path}/first 2>&1 || echo exit $?;"
        f" wait; ls {store}/tmp | wc -l; rm {store}/ballast; {command} >/dev/null; cp -r {store} {tmp_path}/copy"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script], capture_output=True, text=True, timeout=300, env=clean_environment()
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"mount namespaces are not allowed here: {done.stderr.strip()}")
    said = (tmp_path / "first").read_text()
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == ["0", "exit 4", "filled"], said
    last = [line for line in said.splitlines() if line.startswith("crash: ")]
    assert len(last) == 1
    for part in ("No space left on device", str(store), "free at", "place.store"):
        assert part in last[0]
    assert "Traceback" not in said
    whole = artifacts(tmp_path / "copy")
    assert {name.partition("/")[0] for name in whole} >= {"capture", "emulate", "tune", "plug_in", "report"}
    assert not list((tmp_path / "copy").glob("quarantine/*"))


def test_f16_locks_that_cannot_be_taken_end_the_run_with_code_4(finished, tmp_path):
    settings = small_settings(tmp_path)
    locks = tmp_path / "home/store/locks"
    locks.parent.mkdir(parents=True)
    locks.write_text("no folder")
    began = time.monotonic()
    done = crash("run", str(settings), *QUICK)
    assert done.returncode == 4, done.stderr
    assert "cannot be taken" in done.stderr
    assert time.monotonic() - began < 60
    locks.unlink()
    assert crash("run", str(settings), *QUICK).returncode == 0
