"""A stage is found or computed once, in a process of its own, and what goes wrong there comes back as what it is."""

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.core.errors import CrashError, DivergedError, EnvironmentFault, InputError, InterruptedRun, StageKilledError
from tasks.engine.memory import Need
from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, everything_stopped, sharing
from tasks.store.artifacts import Ref, Store
from tests.places import ROOT
from tests.store.sample_stages import failing, greedy, number, slow, surroundings, writes


def clean(runtime: Runtime) -> bool:
    """Whether neither half an artifact nor a quarantined one is left."""
    store = Path(runtime.store)
    return not list(store.glob("tmp/*")) and not list(store.glob("quarantine/*"))


def test_computed_once_and_found_afterwards(runtime, own, tmp_path):
    log = str(tmp_path / "log")
    first = number.run(runtime, value=2, log=log)
    assert number.run(runtime, value=2, log=log) == first
    assert first.summary["total"] == 2
    assert Path(log).read_text() == "2\n"
    assert own.used == [first, first]
    assert own.computed == [first]
    assert clean(runtime)


def test_parents_are_opened_recorded_and_part_of_the_key(runtime, own):
    parents = [number.run(runtime, value=value) for value in (1, 2)]
    child = number.run(runtime, value=10, parents=parents)
    assert child.summary["total"] == 13
    manifest = Store(Path(runtime.store)).find("number", child.key).manifest
    assert [parent["key"] for parent in manifest["parents"]] == [parent.key for parent in parents]
    assert number.key(value=10, parents=parents[:1])[0] != child.key


def test_how_a_run_is_run_is_no_part_of_the_key(runtime, own, tmp_path):
    log = str(tmp_path / "log")
    number.run(runtime, value=1, log=log)
    other = runtime.model_copy(update={"cores_per_stage": 2, "show_progress": True})
    assert number.run(other, "another label", value=1, log=log).summary["threads"] == 1
    assert Path(log).read_text() == "1\n"


def test_defaults_count_as_if_they_were_written():
    assert number.key(value=1)[0] == number.key(value=1, log="", parents=None)[0]
    assert number.key(value=1)[0] != failing.key(how="bug")[0]


def test_an_argument_that_does_not_exist_is_refused(runtime, own):
    with pytest.raises(TypeError, match="unexpected keyword argument 'vale'"):
        number.run(runtime, value=1, vale=1)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("input", InputError, "^the input is bad$"),
        ("diverged", DivergedError, "^the loss is bad$"),
        ("disk", EnvironmentFault, "No space left on device"),
        ("memory", EnvironmentFault, "out of memory"),
        ("killed", StageKilledError, "its process was killed.*lack of memory"),
        ("exit", CrashError, "ended with exit code 7"),
        ("bug", CrashError, "(?s)failed: KeyError: 'surprise'.*sample_stages.py"),
    ],
)
def test_errors_come_back_as_what_they_are_and_publish_nothing(runtime, own, how, kind, message):
    with pytest.raises(kind, match=message) as info:
        failing.run(runtime, how=how)
    assert type(info.value) is kind
    assert not list(Path(runtime.store).glob("artifacts/*/*"))
    assert clean(runtime)


def test_killed_for_lack_of_memory_it_continues_with_half_the_pass_and_killed_by_someone_it_does_not(
    runtime, own, monkeypatch, caplog
):
    with pytest.raises(StageKilledError):
        greedy.run(runtime, size=8, fits=3)
    assert not list(Path(runtime.store).glob("work/*")), "nothing says that memory was the reason"
    kills = iter(range(100))
    monkeypatch.setattr("tasks.engine.stage.num_memory_kills", lambda: next(kills))
    for _ in range(2):
        with pytest.raises(StageKilledError):
            greedy.run(runtime, size=8, fits=3)
    caplog.set_level("WARNING")
    assert greedy.run(runtime, size=8, fits=3).summary["tokens"] == 2
    assert "killed for lack of memory 2 times before: continued with at most 2 tokens" in caplog.text
    assert "instead of 8 (tune.max_tokens)" in caplog.text
    assert not list(Path(runtime.store).glob("work/*"))


def test_a_forbidden_file_is_not_published(runtime, own):
    with pytest.raises(CrashError, match=r"wrote model\.pt"):
        writes.run(runtime, name="model.pt")
    assert clean(runtime)


def test_each_stage_has_its_own_process_random_state_and_threads(runtime, own):
    two = runtime.model_copy(update={"cores_per_stage": 2})
    first, second = surroundings.run(runtime, seed=0), surroundings.run(two, seed=1)
    assert len({first.summary["pid"], second.summary["pid"], os.getpid()}) == 3
    assert (first.summary["torch_threads"], second.summary["torch_threads"]) == (1, 2)
    assert first.summary["device"] == "cpu"


def test_metrics_become_part_of_the_artifact(runtime, own):
    ref = surroundings.run(runtime)
    lines = (Store(Path(runtime.store)).open(ref) / "metrics.jsonl").read_text().splitlines()
    assert [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)] == [(1, 0.5), (2, 0.25)]
    assert not list(Path(runtime.store).glob("work/*"))


def run_in_thread(runtime: Runtime, **arguments) -> tuple[threading.Thread, list]:
    """`slow` in a thread, and a list that gets the error it raises."""
    raised: list = []

    def work() -> None:
        try:
            slow.run(runtime, **arguments)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while not list(Path(runtime.store).glob("work/*/begun")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return thread, raised


def test_stopping_ends_what_runs_and_starts_nothing_more(runtime, own):
    thread, raised = run_in_thread(runtime, seconds=60)
    own.children.stop(seconds=10)
    thread.join(10)
    assert [type(error) for error in raised] == [InterruptedRun]
    with pytest.raises(InterruptedRun, match="was interrupted"):
        number.run(runtime, value=1)
    assert not list(Path(runtime.store).glob("artifacts/*/*"))
    assert clean(runtime)


def test_a_stage_whose_run_is_over_does_not_begin(tmp_path):
    """A thread may come to it after the run has stopped what computed: it must not compute unseen for hours."""
    over = Runtime(store=str(tmp_path / "store"), run_id="over")
    for _ in range(2):
        with sharing(over, RunContext(Resources(1)), once=True):
            assert number.run(over, value=1).summary["total"] == 1, "a run may be run again in one process"
        with pytest.raises(InterruptedRun, match="over"):
            number.run(over, value=2)


def test_no_further_run_begins_in_a_process_that_is_asked_to_stop(tmp_path, monkeypatch):
    # What other tests of this process share is not to be stopped.
    monkeypatch.setattr("tasks.engine.runtime._shared", {})
    late = Runtime(store=str(tmp_path / "store"), run_id="late")
    with everything_stopped(15), pytest.raises(InterruptedRun), sharing(late, RunContext(Resources(1)), once=True):
        pass
    with sharing(late, RunContext(Resources(1)), once=True):
        pass


def test_a_stage_that_polls_leaves_its_checkpoint(runtime, own):
    thread, raised = run_in_thread(runtime, seconds=60, polls=True)
    own.children.stop(seconds=10)
    thread.join(10)
    assert list(Path(runtime.store).glob("work/*/checkpoint")) or not raised


def test_a_stage_that_does_not_listen_is_ended(runtime, own, monkeypatch):
    thread, raised = run_in_thread(runtime, seconds=60)
    began = time.monotonic()
    own.children.stop(signal_number=0, seconds=0.3)
    thread.join(10)
    assert time.monotonic() - began < 5
    assert len(raised) == 1


def test_two_threads_that_want_the_same_compute_it_once(runtime, own, tmp_path):
    log = str(tmp_path / "log")
    threads = [threading.Thread(target=number.run, args=(runtime,), kwargs={"value": 5, "log": log}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Path(log).read_text() == "5\n"


def test_prefect_is_told_that_an_artifact_was_found(runtime, own):
    computed = number.task.fn(runtime, "", value=3)
    found = number.task.fn(runtime, "", value=3)
    assert computed == number.run(runtime, value=3)
    assert (found.name, found.type.value, found.data) == ("Cached", "COMPLETED", computed)
    assert computed.key[:12] in found.message


def test_prefect_neither_caches_nor_pickles(runtime):
    assert number.task.persist_result is False
    assert type(number.task.cache_policy).__name__ == "_None"
    assert number.task.retries == 0


CHANGES = {
    "value": {"value": 2},
    "log": {"log": "elsewhere"},
    "parents": {"parents": [Ref(stage="number", key="k" * 64, digest="d" * 64)]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_f23_every_argument_counts(name):
    assert number.key(**{"value": 1} | CHANGES[name])[0] != number.key(value=1)[0]


def test_f23_a_parent_counts_by_content_not_by_key_or_summary():
    parent = Ref(stage="number", key="a" * 64, digest="d" * 64, summary={"total": 1})
    elsewhere = parent.model_copy(update={"key": "b" * 64, "summary": {}})
    other = parent.model_copy(update={"digest": "e" * 64})
    key = number.key(value=1, parents=[parent])[0]
    assert number.key(value=1, parents=[elsewhere])[0] == key
    assert number.key(value=1, parents=[other])[0] != key


STAGE_MODULE = """
from tasks.engine.stage import stage

@stage(packages=("torch",))
def sample(work, *, seed: int = 0) -> dict:
    {body}
    return {{}}
"""


@pytest.fixture
def own_stage(tmp_path, monkeypatch):
    """Key of a stage in a module of its own, as the next process would compute it: key(body, helper's text)."""
    (tmp_path / "stage_here").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def key(body: str = "x = 1", helper: str = "VALUE = 1", **arguments) -> str:
        from tasks.store import keys
        from tasks.store.code_digest import forget_code

        module = STAGE_MODULE.format(body=f"from stage_here import one; {body}")
        for name, text in (("one.py", helper), ("__init__.py", module)):
            (tmp_path / "stage_here" / name).write_text(text)
        forget_code()
        keys.package_version.cache_clear()
        sys.modules.pop("stage_here", None)
        importlib.invalidate_caches()
        return importlib.import_module("stage_here").sample.key(**arguments)[0]

    yield key
    sys.modules.pop("stage_here", None)


def test_f23_code_helpers_seed_and_package_versions_count_and_comments_do_not(own_stage, monkeypatch):
    key = own_stage()
    assert own_stage() == key
    assert own_stage(seed=0) == key
    assert own_stage(body="x = 1  # said otherwise") == key
    changed = [own_stage(seed=1), own_stage(body="x = 2"), own_stage(helper="VALUE = 2")]
    monkeypatch.setattr("tasks.store.keys.metadata.version", lambda name: "999")
    changed.append(own_stage())
    monkeypatch.undo()
    assert len({key, *changed}) == 5


SCRIPT = """
import sys
from tasks.engine.resources import Resources
from tasks.engine.runtime import Runtime, RunContext, everything_stopped, sharing
from tests.store.sample_stages import number
ref = number.run(Runtime(store=sys.argv[1]), value=1)
heavy = {"torch", "transformers", "mlflow", "prefect", "datasets", "pandas"} & set(sys.modules)
print(sorted(heavy))
"""


@pytest.mark.parametrize("attempt", ["computed", "found"])
def test_the_process_that_orchestrates_loads_no_heavy_package(attempt, tmp_path_factory):
    store = tmp_path_factory.getbasetemp() / "light-store"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(store)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_two_stages_that_do_not_fit_together_compute_one_after_another(runtime, tmp_path):
    places = tmp_path / "places"
    places.mkdir()
    context = RunContext(Resources(2, [], places, memory=10**9), expected=lambda name, stopped: Need(6e8))
    most = 0
    with sharing(runtime, context):
        threads = [
            threading.Thread(target=slow.run, args=(runtime, label), kwargs={"seconds": wait})
            for label, wait in (("a", 0.8), ("b", 0.9))
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(list(places.glob("memory-*.lock"))))
            time.sleep(0.02)
    assert most == 1
    assert len(context.computed) == 2
    assert not list(places.glob("memory-*"))
