"""A stage over a store that somebody or something damaged, and over disks that are full or slowly filling."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Store
from tests.places import ROOT
from tests.store.sample_stages import number


def executions(log: str) -> int:
    """How often `number` has really computed."""
    return len(Path(log).read_text().splitlines()) if Path(log).exists() else 0


def damaged(folder: Path, how: str) -> None:
    """Break an artifact in one of the ways of a failing disk or a careless hand."""
    if how == "deleted":
        shutil.rmtree(folder)
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        path = folder / ("manifest.json" if how == "flipped in manifest" else "value.json")
        content = bytearray(path.read_bytes())
        if how == "truncated":
            del content[-1]
        else:
            content[len(content) // 2] ^= 1
        path.write_bytes(content)


DAMAGES = {
    "truncated": "f11",
    "flipped": "f12",
    "flipped in manifest": "f12",
    "deleted": "f13",
    "no manifest": "f13",
}


@pytest.mark.parametrize("how", [pytest.param(how, id=f"{fault} {how}") for how, fault in DAMAGES.items()])
def test_f11_f12_f13_a_damaged_artifact_is_computed_again_once_and_nothing_else(runtime, own, tmp_path, caplog, how):
    logs = [str(tmp_path / name) for name in ("parent", "child")]
    parent = number.run(runtime, value=1, log=logs[0])
    child = number.run(runtime, value=10, parents=[parent], log=logs[1])
    damaged(Store(Path(runtime.store)).folder("number", parent.key), how)
    for _ in range(2):
        again = number.run(runtime, value=1, log=logs[0])
        assert again == parent
        assert number.run(runtime, value=10, parents=[again], log=logs[1]) == child
    assert [executions(log) for log in logs] == [2, 1]
    warnings = [record for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(warnings) == (0 if how == "deleted" else 1)
    assert Store(Path(runtime.store)).verify_everything() == []


def test_f13_a_parent_that_vanished_is_said_by_the_child_and_the_next_run_repairs_it(runtime, own):
    parent = number.run(runtime, value=1)
    shutil.rmtree(Store(Path(runtime.store)).folder("number", parent.key))
    with pytest.raises(EnvironmentFault, match="run the same command again"):
        number.run(runtime, value=10, parents=[parent])
    assert not list(Path(runtime.store).glob("tmp/*"))
    assert number.run(runtime, value=10, parents=[number.run(runtime, value=1)]).summary["total"] == 11


def test_f24_a_poisoned_entry_is_computed_again_and_never_run(runtime, own, tmp_path):
    key = number.key(value=4)[0]
    folder = Store(Path(runtime.store)).folder("number", key)
    folder.mkdir(parents=True)
    trace = tmp_path / "it ran"
    (folder / "value.json").write_text("999")
    (folder / "manifest.json").write_text('{"files": {}, "digest": "0"}')
    (folder / "sitecustomize.py").write_text(f"open({str(trace)!r}, 'w')")
    assert number.run(runtime, value=4).summary["total"] == 4
    assert not trace.exists()
    assert len(list(Path(runtime.store).glob("quarantine/*"))) == 1


FULL_DISK = """
import sys
from tasks.core.errors import CrashError
from tasks.engine.runtime import Runtime
from tests.store.sample_stages import large

if __name__ == "__main__":
    try:
        print(large.run(Runtime(store=sys.argv[1]), how=sys.argv[2]).digest)
    except CrashError as error:
        print(error.exit_code, error)
"""


@pytest.mark.parametrize("how", ["library", pytest.param("python", marks=pytest.mark.slow_faults)])
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_f8_a_disk_that_fills_up_inside_a_stage(tmp_path, how):
    store, script = tmp_path / "store", tmp_path / "script.py"
    store.mkdir()
    script.write_text(FULL_DISK)
    run = f"{sys.executable} {script} {store} {how}"
    namespace = (
        f"mount -t tmpfs -o size=2m tmpfs {store}; {run}; ls {store}/tmp | wc -l; find {store}/artifacts | wc -l;"
        f" mount -o remount,size=64m {store}; {run}; {run}; find {store}/artifacts -name manifest.json | wc -l"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", namespace], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"mount namespaces are not allowed here: {done.stderr.strip()}")
    refusal, num_temporary, _, digest, again, num_artifacts = done.stdout.splitlines()
    assert refusal.startswith("4 large: writing "), done.stderr
    for part in ("No space left on device", f"{store}/tmp", "MiB free at", "bytes written so far", "crash gc"):
        assert part in refusal
    assert num_temporary == "0"
    assert digest == again
    assert num_artifacts == "1"
