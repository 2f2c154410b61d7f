"""The whole command killed, interrupted and fed bad input: what is finished stays, what is not is done again."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.store.checkpoints import checkpoint_step
from tasks.store.metrics import read_metrics
from tests.faults.running import Running, being_written, tunes
from tests.flows.commands import CRASH, artifacts, clean_environment, crash, small_settings, stages
from tests.places import DEMO
from tests.prefect_server import TEMPORARY
from tests.store.folders import copied, edit

pytestmark = [pytest.mark.usefixtures("one_prefect")]
STAGES = ("check", "capture", "similarity", "cluster", "emulate", "tune", "plug_in", "evaluate", "report")
LONG = ("--set", "strategy=crash", "--set", "full_tune.enabled=false")
LONG += ("--set", "tune.num_steps=200", "--set", "tune.checkpoint_steps=10")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artifacts of the same run without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = crash("run", str(small_settings(folder)), *LONG)
    assert done.returncode == 0, done.stderr
    return artifacts(folder / "home/store")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return small_settings(tmp_path)


def finish(settings: Path, undisturbed: dict[str, str], before: dict[str, str]) -> None:
    """Rerun the same command: it ends well, with the same contents, and computes nothing again that was finished."""
    store = settings.parent / "home/store"
    kept = {name: (store / "artifacts" / name).stat().st_ino for name in before}
    again = crash("run", str(settings), *LONG)
    assert again.returncode == 0, again.stderr
    assert artifacts(store) == undisturbed
    assert {name: (store / "artifacts" / name).stat().st_ino for name in before} == kept
    assert not list(store.glob("quarantine/*"))


def checkpoints(home: Path) -> list[Path]:
    """Checkpoints of tunings that are not finished."""
    return list(home.glob("store/work/*/checkpoint.safetensors"))


def kill_and_rerun(when: Callable[[Path], Any], settings: Path, undisturbed: dict[str, str]) -> set[tuple[int, float]]:
    """A run that is killed as soon as `when(home)` holds, and run again; the steps that it had saved."""
    home = settings.parent / "home"
    run = Running(str(settings), *LONG, **TEMPORARY)
    run.wait_until(lambda: bool(when(home)), "the moment to kill it")
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert run.no_survivors(), run.survivors()
    before, saved = artifacts(home / "store"), checkpoints(home)
    made = steps_made(home.glob("store/work/*"))
    assert before.keys() < undisturbed.keys()
    finish(settings, undisturbed, before)
    assert made <= steps_made(home.glob("store/artifacts/tune/*")), "no step was made again"
    assert not any(path.exists() for path in saved), "the scratch of a finished tuning is removed"
    assert crash("gc", "--home", str(home), "--days", "0.0001").returncode == 0
    assert not list((home / "store").glob("tmp/*"))
    return made


def test_f1_f3_f17_a_tuning_that_is_killed_goes_on_from_its_checkpoint(settings, undisturbed):
    assert kill_and_rerun(checkpoints, settings, undisturbed), "some steps were saved"


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_f1_kill_in_each_stage(stage, settings, undisturbed):
    kill_and_rerun(lambda home: being_written(home, stage), settings, undisturbed)


# What each process of a run would say of a server that is gone.
GONE = ("Traceback", "Unable to connect", "EventsWorker", "Error logging", "ConnectError", "ended with exit code")


def end_job(run: Running, number: int, to: str) -> None:
    """End a run as a batch system or a terminal does: in time, with the signal's code, and a handful of lines."""
    began = time.monotonic()
    assert run.end(number, to=to) == 128 + number, run.output
    assert time.monotonic() - began < 30, run.output
    assert run.no_survivors(), run.survivors()
    assert not [words for words in GONE if words in run.output], run.output
    assert len(run.output_after_signal.splitlines()) <= 6, run.output
    assert run.output.count(f"crash: interrupted by {signal.Signals(number).name}; run the same command") == 1


def interrupted_and_finished(number: int, to: str, settings: Path, undisturbed: dict[str, str]) -> None:
    """A run that is ended while it tunes, and run again: it goes on from the step that it had reached."""
    home = settings.parent / "home"
    run = Running(str(settings), *LONG, **TEMPORARY)
    run.wait_until(lambda: tunes(home), "first step")
    end_job(run, number, to)
    assert checkpoints(home), run.output
    made = steps_made(home.glob("store/work/*"))
    assert made
    finish(settings, undisturbed, artifacts(home / "store"))
    assert made <= steps_made(home.glob("store/artifacts/tune/*")), "no step was made again"


def steps_made(folders: Iterator[Path]) -> set[tuple[int, float]]:
    """Number and time of the steps that the tunings in these folders have made and, where unfinished, saved."""
    found = set()
    for folder in folders:
        checkpoint = folder / "checkpoint.safetensors"
        last = checkpoint_step(checkpoint) or 0 if folder.parent.name == "work" else math.inf
        metrics = folder / "metrics.jsonl"
        for entry in read_metrics(metrics):
            if "learning_rate" in entry and entry["step"] <= last:
                found.add((entry["step"], entry["time"]))
    return found


@pytest.mark.parametrize(
    ("number", "code", "to"),
    [(signal.SIGTERM, 143, "all"), pytest.param(signal.SIGINT, 130, "the group", marks=pytest.mark.nightly)],
)
def test_f20_f21_signals_checkpoint_and_exit_with_their_code(number, code, to, settings, undisturbed):
    assert code == 128 + number
    interrupted_and_finished(number, to, settings, undisturbed)


def test_f20_a_signal_to_the_whole_job_before_there_is_a_checkpoint(settings):
    home = settings.parent / "home"
    run = Running(str(settings), *LONG, **TEMPORARY)
    run.wait_until(lambda: being_written(home, "capture"), "start of capture")
    end_job(run, signal.SIGTERM, "the group")
    assert "capture" not in stages(set(artifacts(home / "store")))
    assert not list((home / "store").glob("quarantine/*"))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, "the command"),
        (signal.SIGINT, "the command"),
        (signal.SIGTERM, "the group"),
        (signal.SIGHUP, "the group"),
        (signal.SIGINT, "all"),
    ],
)
def test_f20_f21_signals_to_whomever(number, to, settings, undisturbed):
    home = settings.parent / "home"
    run = Running(str(settings), *LONG, **TEMPORARY)
    run.wait_until(lambda: being_written(home, "capture"), "start of capture")
    end_job(run, number, to)
    interrupted_and_finished(number, to, settings, undisturbed)


def test_f21_a_second_interrupt_ends_at_once(settings):
    home = settings.parent / "home"
    run = Running(str(settings), *LONG, **TEMPORARY)
    run.wait_until(lambda: tunes(home), "first step")
    began = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait(30) == 130
    assert time.monotonic() - began < 5
    assert run.no_survivors(), run.survivors()
    assert crash("doctor", "--home", str(home), "--verify").returncode in (0, 4)
    assert not list((home / "store").glob("quarantine/*"))


def test_f19_divergence_exits_with_5_and_keeps_what_was_finished(settings):
    done = crash("run", str(settings), "--set", "tune.learning_rate=1e30", "--set", "strategy=uniform")
    assert done.returncode == 5, done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("crash: ")]
    assert len(last) == 1
    assert "is not finite at step" in last[0]
    assert "learning rate" in last[0]
    assert "Traceback" not in done.stderr
    assert "tune" not in stages(set(artifacts(settings.parent / "home/store")))


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("task.name=peple", 2, "did you mean people"),
        ("model.name=/nowhere/at/all", 2, "there is no such folder"),
        ("model.name=some/model", 4, "hub cannot be reached"),
        ("plan.num_kept=13", 2, "has 12 blocks; keep at most 12"),
        ("tune.learnig_rate=1", 2, "Did you mean learning_rate"),
        ("place.mlflow=http://127.0.0.1:9", 4, "does not answer"),
    ],
)
def test_bad_input_is_one_message_its_code_and_no_artifact(change, code, message, settings):
    done = crash("run", str(settings), "--set", change)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not artifacts(settings.parent / "home/store")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"layer_types": ["full_attention"] * 14}, "layer_types has 14 entries"),
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised (gptq, 4 bits)"),
        ("config.json", {"ffn_dim": 600}, "fc1.bias is [512] in the model's files, but [600] by its config.json"),
        ("adapter_config.json", {"peft_type": "LORA"}, "an adapter beside it (adapter_config.json)"),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_one_message_and_no_artifact(file, changes, message, tmp_path):
    model = copied(DEMO / "model", tmp_path / "model")
    edit(model, file, **changes)
    done = crash("run", str(small_settings(tmp_path, model=str(model))))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not artifacts(tmp_path / "home/store")


def test_a_prefect_server_that_is_away_is_said_at_once(settings):
    began = time.monotonic()
    done = crash("run", str(settings), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.returncode, "PREFECT_API_URL" in done.stderr) == (4, True), done.stderr
    assert time.monotonic() - began < 30
    assert not artifacts(settings.parent / "home/store")


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where mounts are its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script], capture_output=True, text=True, timeout=300, env=clean_environment()
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"mount namespaces are not allowed here: {done.stderr.strip()}")
    return done


def test_f9_too_little_disk_is_said_before_anything_is_computed(settings):
    home = settings.parent / "home"
    home.mkdir()
    done = in_namespace(f"mount -t tmpfs -o size=64m tmpfs {home}; {CRASH} run {settings} || echo $?; ls {home}")
    assert done.stdout == "4\n", "nothing is written, not even a folder"
    assert "for this run but has" in done.stderr
    assert "place.store" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow_faults
def test_f10_a_read_only_store(settings):
    assert crash("run", str(settings)).returncode == 0
    store = settings.parent / "home/store"
    before = artifacts(store)
    read_only = f"mount --bind {store} {store}; mount -o remount,ro,bind {store}; {CRASH} run {settings} "
    cached = in_namespace(read_only)
    assert cached.returncode == 0, cached.stderr
    assert "Report:" in cached.stdout
    miss = in_namespace(f"{read_only} --set tune.learning_rate=1e-3")
    assert miss.returncode == 4, miss.stderr
    last = miss.stderr.splitlines()[-1] if "crash: " in miss.stderr.splitlines()[-1] else miss.stderr
    assert str(store) in last
    assert "Read-only file system" in last
    assert "Traceback" not in miss.stderr
    assert artifacts(store) == before
