"""The store under kills at every sync point, full and read-only disks, races and many writers at once."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import MANIFEST, Store
from tests.faults.publisher import publish
from tests.places import ROOT

PUBLISHER = [sys.executable, "-m", "tests.faults.publisher"]
COLLECTOR = [sys.executable, "-m", "tests.faults.collector"]
STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
nightly = pytest.mark.nightly
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def fresh(folder: Path) -> Path:
    """An empty store."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts" / "sample").mkdir(parents=True)
    return folder


def inject(
    store: Path, call: str, fault: str, number: int, program: Sequence[str] = PUBLISHER
) -> subprocess.CompletedProcess[str]:
    """Publish, or run another program, with the fault at the `number`-th such call of the whole process."""
    command = [str(STRACE), "-f", "-qq", "-o", f"{store}.trace", "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:{fault}:when={number}"]
    return subprocess.run([*command, *program, str(store), "0"], cwd=ROOT, capture_output=True, text=True)


def fired(store: Path) -> bool:
    """Whether strace really injected something."""
    text = Path(f"{store}.trace").read_text()
    return "(INJECTED)" in text or "+++ killed by SIGKILL" in text


def check_invariant(root: Path, expected: str) -> None:
    """Complete or absent; a rerun gives the undisturbed digest; nothing half written stays."""
    store = Store(root)
    for manifest in root.glob(f"artifacts/*/*/{MANIFEST}"):
        assert store.find("sample", manifest.parent.name) is not None
    assert len(list(root.glob("artifacts/*/*"))) == len(list(root.glob(f"artifacts/*/*/{MANIFEST}")))
    assert not list(root.glob("quarantine/*"))
    done = subprocess.run([*PUBLISHER, str(root), "0"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
    assert not list(root.glob("quarantine/*"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """The digest of an undisturbed publish."""
    return publish(Store(tmp_path_factory.mktemp("undisturbed")), 0)


def sweep(folder: Path, expected: str, call: str, fault: str, numbers: range) -> list[subprocess.CompletedProcess]:
    """One publish for each number until the fault no longer fires."""
    outcomes = []
    for number in numbers:
        store = fresh(folder / "store")
        done = inject(store, call, fault, number)
        if not fired(store):
            break
        outcomes.append(done)
        check_failure(done, store, fault)
        check_invariant(store, expected)
    return outcomes


def check_failure(done: subprocess.CompletedProcess[str], store: Path, fault: str) -> None:
    """Killed, or refused with the path and the free space, or not hit where it matters."""
    if "SIGKILL" in fault:
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return
    assert not list(store.glob("tmp/*")), done.stderr
    if not list(store.glob("artifacts/sample/*")):
        assert done.returncode == 4, done.stderr
        assert "failed: No space left on device" in done.stderr or "cannot be taken" in done.stderr
        assert str(store) in done.stderr


@needs_strace
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_f2_killed_at_the_first_sync_points(tmp_path, expected, call):
    assert sweep(tmp_path, expected, call, "signal=SIGKILL", range(1, 3))


@needs_strace
@pytest.mark.slow_faults
@pytest.mark.parametrize(
    "call", [*(pytest.param(call, marks=nightly) for call in ("mkdir", "write", "fsync")), "rename"]
)
def test_f2_killed_at_every_sync_point(tmp_path, expected, call):
    assert sweep(tmp_path, expected, call, "signal=SIGKILL", range(1, 200))


def killed_while_collecting(folder: Path, expected: str, call: str, numbers: range) -> int:
    """Kill `gc` at each such call: what it removes is complete or absent, and the next `gc` takes the rest."""
    count = 0
    for number in numbers:
        store = fresh(folder / "store")
        publish(Store(store), 0)
        done = inject(store, call, "signal=SIGKILL", number, COLLECTOR)
        if not fired(store):
            assert done.stdout == "1\n", done.stderr
            break
        count += 1
        check_invariant(store, expected)
        subprocess.run([*COLLECTOR, str(store)], cwd=ROOT, check=True, capture_output=True)
        assert not list(store.glob("artifacts/sample/*"))
        assert not list(store.glob("tmp/*"))
    return count


@needs_strace
def test_f2_gc_killed_at_its_first_removals(tmp_path, expected):
    assert killed_while_collecting(tmp_path, expected, "rename", range(1, 2)) == 1
    assert killed_while_collecting(tmp_path, expected, "unlinkat", range(1, 3)) == 2


@needs_strace
@pytest.mark.slow_faults
@pytest.mark.parametrize(
    "call", ["rename", *(pytest.param(call, marks=nightly) for call in ("unlink", "unlinkat", "rmdir"))]
)
def test_f2_gc_killed_anywhere(tmp_path, expected, call):
    killed = killed_while_collecting(tmp_path, expected, call, range(1, 200))
    assert killed or call in ("unlink", "rmdir"), "files and folders may be removed by either call"


@needs_strace
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_f8_disk_full_at_the_first_sync_points(tmp_path, expected, call):
    outcomes = sweep(tmp_path, expected, call, "error=ENOSPC", range(1, 3))
    assert any(done.returncode == 4 for done in outcomes)


@needs_strace
@pytest.mark.slow_faults
@pytest.mark.parametrize(
    "call", [*(pytest.param(call, marks=nightly) for call in ("mkdir", "write", "fsync")), "rename"]
)
@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EDQUOT", marks=nightly)])
def test_f8_disk_full_at_every_call(tmp_path, expected, call, error):
    folder = tmp_path / "store"
    refused = 0
    for number in range(1, 200):
        store = fresh(folder)
        done = inject(store, call, f"error={error}", number)
        if not fired(store):
            break
        assert not list(store.glob("tmp/*")), done.stderr
        if not list(store.glob("artifacts/sample/*")):
            assert done.returncode == 4, done.stderr
            refused += 1
        check_invariant(store, expected)
    assert refused


def mounted(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own."""
    done = subprocess.run(["unshare", "-m", "sh", "-ec", script], cwd=ROOT, capture_output=True, text=True)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip(f"mount namespaces are not allowed here: {done.stderr.strip()}")
    return done


@needs_root
def test_f8_a_full_disk_keeps_nothing_half_written(tmp_path, expected):
    publish_one = " ".join([*PUBLISHER, str(tmp_path), "0"])
    done = mounted(
        f"mount -t tmpfs -o size=128k tmpfs {tmp_path}; set +e; {publish_one}; echo exit $?; ls {tmp_path}/tmp;"
        f" mount -o remount,size=8m {tmp_path}; {publish_one}"
    )
    refusal, digest = done.stdout.splitlines()
    assert refusal == "exit 4", done.stderr
    assert digest == expected
    assert "No space left on device" in done.stderr
    assert "free at" in done.stderr


def test_f9_too_little_room_is_said_before_anything_is_written(tmp_path):
    store = Store(tmp_path / "deep" / "store")
    with pytest.raises(EnvironmentFault, match=r"needs about [\d,]+ MiB for this run but has [\d,]+ MiB free") as info:
        store.check_writable(shutil.disk_usage(tmp_path).free + 2**40)
    assert info.value.exit_code == 4
    assert str(store.root) in str(info.value)
    assert not (tmp_path / "deep").exists()


@needs_root
def test_f10_a_read_only_store_serves_what_it_has_and_names_itself_otherwise(tmp_path, expected):
    publish(Store(tmp_path), 0)
    read_only = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,ro,bind {tmp_path}; "
    hit = mounted(read_only + " ".join([*PUBLISHER, str(tmp_path), "0"]))
    assert (hit.returncode, hit.stdout.strip()) == (0, expected), hit.stderr
    miss = mounted(read_only + " ".join([*PUBLISHER, str(tmp_path), "1"]))
    assert miss.returncode == 4
    assert str(tmp_path) in miss.stderr
    assert "Read-only file system" in miss.stderr
    assert "Traceback" not in miss.stderr


def race(root: Path, lock: bool) -> tuple[list[str], int]:
    """Two threads with stores of their own publish one key at the same moment; digests and number of executions."""
    barrier = threading.Barrier(2)
    digests: list[str] = []

    def work() -> None:
        store = Store(root)
        if lock:
            barrier.wait()
            digests.append(publish(store, 0, root / "log"))
            return
        from tasks.store.keys import stage_key

        key, inputs = stage_key("sample", "tasks.store.files", {"seed": 0}, ())
        with store.publishing("sample", key) as out:
            (out / "plan.json").write_text("0")
            barrier.wait()
            digests.append(store.publish("sample", key, out, inputs).ref.digest)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = root / "log"
    return digests, len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize("lock", [False, True])
def test_f14_a_race_for_one_key_ends_in_one_artifact(tmp_path, lock):
    for number in range(50):
        root = tmp_path / str(number)
        root.mkdir()
        digests, executions = race(root, lock)
        assert len(digests) == 2
        assert len(set(digests)) == 1
        assert len(list(root.glob("artifacts/sample/*"))) == 1
        assert executions == (1 if lock else 0)
        assert not list(root.glob("tmp/*"))


def test_f14_two_processes_race(tmp_path, expected):
    for number in range(5):
        root = tmp_path / str(number)
        running = [
            subprocess.Popen([*PUBLISHER, str(root), "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [process.communicate()[0].strip() for process in running] == [expected] * 2


def test_f16_a_lock_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "locks").write_text("no folder")
    with pytest.raises(EnvironmentFault, match="cannot be taken"):
        publish(Store(tmp_path), 0)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))
def test_f27_two_workers_share_a_store(tmp_path, seeds):
    root = fresh(tmp_path / "shared")
    running = [
        subprocess.Popen([*PUBLISHER, str(root), str(seed), "100"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for seed in seeds
    ]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    executions = Counter((root / "log").read_text().split())
    assert set(executions.values()) == {1}
    assert len(list(root.glob("artifacts/sample/*"))) == len(executions)
    assert Store(root).verify_everything() == []
    assert not list(root.glob("tmp/*"))
