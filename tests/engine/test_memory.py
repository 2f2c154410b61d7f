"""Main memory is reserved like cores: what does not fit beside others waits, and a dead holder frees its part."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.core.errors import InterruptedRun
from tasks.engine import machine_memory
from tasks.engine.memory import Memory
from tasks.engine.places import never
from tests.places import ROOT

GB = 10**9
HOLD = """
import sys, time
from pathlib import Path
from tasks.engine.memory import Memory
with Memory(Path(sys.argv[1])).take(int(sys.argv[2]), lambda: False, "tune · seed 0"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def ten_free(monkeypatch):
    """Ten gigabytes for all stages together, of which none has used any yet."""
    monkeypatch.setattr(machine_memory, "free_memory", lambda: 10 * GB)
    monkeypatch.setattr(machine_memory, "memory_of", lambda pid: 0)
    monkeypatch.setattr("tasks.engine.memory.POLL_SECONDS", 0.02)


def stage(folder: Path, num_bytes: int, seen: list[str], name: str, seconds: float = 0.3) -> threading.Thread:
    """A thread that holds memory for a while."""

    def run() -> None:
        with Memory(folder).take(num_bytes, never, name) as reservation:
            reservation.started(os.getpid())
            seen.append(f"{name} begins")
            time.sleep(seconds)
            seen.append(f"{name} ends")

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    return thread


def test_two_that_fit_run_side_by_side_and_two_that_do_not_one_after_another(tmp_path):
    seen: list[str] = []
    for thread in [stage(tmp_path, 6 * GB, seen, "a"), stage(tmp_path, 4 * GB, seen, "b")]:
        thread.join()
    assert seen[:2] == ["a begins", "b begins"]
    seen.clear()
    for thread in [stage(tmp_path, 6 * GB, seen, "a"), stage(tmp_path, 5 * GB, seen, "b")]:
        thread.join()
    assert seen == ["a begins", "a ends", "b begins", "b ends"]
    assert not list(tmp_path.glob("memory-*"))


def test_the_only_stage_never_waits(tmp_path):
    with Memory(tmp_path).take(50 * GB, never):
        pass


def test_what_running_stages_use_already_counts_as_theirs(tmp_path, monkeypatch):
    seen: list[str] = []
    first = stage(tmp_path, 6 * GB, seen, "a")
    # It has come to use 5 of its 6; of the 5 that are left free, 4 are for the second.
    monkeypatch.setattr(machine_memory, "free_memory", lambda: 5 * GB)
    monkeypatch.setattr(machine_memory, "memory_of", lambda pid: 5 * GB)
    second = stage(tmp_path, 4 * GB, seen, "b")
    assert seen == ["a begins", "b begins"]
    first.join()
    second.join()


def test_a_stage_that_uses_more_than_it_reserved_takes_nothing_of_the_others(tmp_path, monkeypatch):
    seen: list[str] = []
    threads = [stage(tmp_path, 3 * GB, seen, name, seconds=2.0) for name in ("a", "b")]
    # The first has come to use 6, the second nothing yet.
    used = iter([6 * GB, 0] * 1000)
    monkeypatch.setattr(machine_memory, "free_memory", lambda: 4 * GB)
    monkeypatch.setattr(machine_memory, "memory_of", lambda pid: next(used))
    threads.append(stage(tmp_path, 2 * GB, seen, "c"))
    assert seen == ["a begins", "b begins"]
    for thread in threads:
        thread.join()


def test_a_large_stage_is_not_passed_by_small_ones(tmp_path):
    seen: list[str] = []
    threads = [stage(tmp_path, 6 * GB, seen, "a"), stage(tmp_path, 9 * GB, seen, "b"), stage(tmp_path, GB, seen, "c")]
    for thread in threads:
        thread.join()
    assert [word for word in seen if word.endswith("begins")] == ["a begins", "b begins", "c begins"]


def test_stages_take_no_more_than_they_are_given(tmp_path):
    with Memory(tmp_path, 2 * GB).take(GB, never):
        calls = iter([False, False, True])
        with pytest.raises(InterruptedRun), Memory(tmp_path, 2 * GB).take(2 * GB, lambda: next(calls)):
            pass
        with Memory(tmp_path, 2 * GB).take(GB, never):
            pass


def test_the_memory_of_a_killed_process_is_free_at_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(8 * GB)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    seen: list[str] = []
    waiting = stage(tmp_path, 3 * GB, seen, "b")
    time.sleep(0.5)
    assert not seen
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    waiting.join(10)
    assert seen == ["b begins", "b ends"]
    wanted = f"waiting for 3.0 GB of memory (8.0 GB reserved by process {holder.pid} on "
    assert wanted in caplog.text
    assert "(tune · seed 0); 10.0 GB free)" in caplog.text


def test_a_stopped_run_does_not_wait(tmp_path):
    seen: list[str] = []
    holding = stage(tmp_path, 8 * GB, seen, "a")
    with pytest.raises(InterruptedRun, match="free memory"), Memory(tmp_path).take(3 * GB, lambda: True):
        pass
    holding.join()


def group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Control groups of a machine with 64 GB, half of it free."""
    monkeypatch.undo()
    monkeypatch.setattr(machine_memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine_memory, "OWN_CGROUP", tmp_path / "own")
    numbers = type("numbers", (), {"total": 64 * GB, "available": 32 * GB})
    monkeypatch.setattr(machine_memory.psutil, "virtual_memory", lambda: numbers)
    return tmp_path


def test_without_limits_it_is_the_machines(cgroups):
    assert (machine_memory.total_memory(), machine_memory.free_memory()) == (64 * GB, 32 * GB)
    (cgroups / "own").write_text("0::/\n")
    group(cgroups, {"memory.max": "max", "memory.current": 5 * GB})
    assert (machine_memory.total_memory(), machine_memory.free_memory()) == (64 * GB, 32 * GB)


def test_the_limit_of_a_container_counts_and_its_file_cache_is_free(cgroups):
    (cgroups / "own").write_text("0::/job/step\n")
    group(
        cgroups / "job",
        {"memory.max": 16 * GB, "memory.current": 10 * GB, "memory.stat": f"anon 1\ninactive_file {4 * GB}"},
    )
    group(cgroups / "job" / "step", {"memory.max": "max", "memory.current": 1})
    assert (machine_memory.total_memory(), machine_memory.free_memory()) == (16 * GB, 10 * GB)


def test_limits_of_the_first_version(cgroups):
    (cgroups / "own").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n")
    files = {
        "memory.limit_in_bytes": 8 * GB,
        "memory.usage_in_bytes": 6 * GB,
        "memory.stat": f"total_inactive_file {GB}",
    }
    group(cgroups / "memory" / "job", files)
    group(cgroups / "memory", {"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 9 * GB})
    assert (machine_memory.total_memory(), machine_memory.free_memory()) == (8 * GB, 3 * GB)


def test_memory_of_processes_counts_their_children(monkeypatch):
    monkeypatch.undo()
    here = machine_memory.memory_of(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", "x = b'1' * 100_000_000; print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    grown = machine_memory.memory_of(os.getpid()) - here
    child.communicate("\n")
    assert 95_000_000 < grown < 200_000_000
    assert machine_memory.memory_of(2**22 + 1) == 0


def test_kills_are_counted_where_this_process_is(cgroups, monkeypatch):
    monkeypatch.setattr(machine_memory, "KERNEL_COUNTS", cgroups / "vmstat")
    group(cgroups, {"vmstat": "pgfault 1\noom_kill 7", "own": "0::/job"})
    assert machine_memory.num_memory_kills() == 7
    group(cgroups / "job", {"memory.events": "low 0\noom_kill 2"})
    assert machine_memory.num_memory_kills() == 2
    group(cgroups, {"own": "4:memory:/job"})
    group(cgroups / "memory" / "job", {"memory.oom_control": "under_oom 0\noom_kill 3"})
    assert machine_memory.num_memory_kills() == 3
