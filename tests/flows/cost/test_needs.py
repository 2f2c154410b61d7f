"""The memory that a flow expects of its stages: for every stage that it submits, and advice where it cannot be had."""

from pathlib import Path
from typing import Any

import pytest

from flows.cost.needs import PROCESS_BYTES, find_needs
from flows.running.expected_memory import ExpectedMemory
from flows.settings.reading import read_settings
from tasks.core.errors import EnvironmentFault
from tasks.data.resolving import resolve_task
from tests.flows.commands import crash, small_settings

ENOUGH = 1e15


def cells(settings: Any) -> list[tuple[str, str, Any]]:
    return [("", settings.model_dump_json(), resolve_task(settings.task.model_dump()))]


def test_every_stage_of_a_run_has_its_need(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32"])
    found = find_needs("crash", cells(settings), ENOUGH, on_gpu=False)
    assert found.too_large is None
    assert {name.split(" · ")[0] for name in found.by_name} >= {"capture", "cluster", "tune", "evaluate", "report"}
    assert all(need >= PROCESS_BYTES for need in found.by_name.values())
    tune = next(need for name, need in found.by_name.items() if name.startswith("tune"))
    assert tune > found.by_name["report"]


def test_on_a_gpu_only_the_weights_pass_through_main_memory(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32"])
    here, there = (find_needs("crash", cells(settings), ENOUGH, on_gpu).by_name for on_gpu in (False, True))
    on_gpu = {need for name, need in there.items() if name.startswith(("tune", "evaluate", "capture"))}
    assert len(on_gpu) == 1
    assert PROCESS_BYTES < on_gpu.pop() < max(here.values())
    assert there["report"] == here["report"]


def test_what_never_fits_is_named_with_a_value_that_fits(tmp_path: Path) -> None:
    path = small_settings(tmp_path)
    settings = read_settings(path, ["model.precision=float32"])
    whole = find_needs("crash", cells(settings), ENOUGH, on_gpu=False)
    name = max(whole.by_name, key=whole.by_name.__getitem__)
    limit = whole.by_name[name] - 1
    found = find_needs("crash", cells(settings), limit, on_gpu=False)
    assert found.too_large == name
    assert found.advice.startswith("lower ")
    setting, value = found.advice.split()[1], int(found.advice.split()[3].rstrip(","))
    lowered = read_settings(path, ["model.precision=float32", f"{setting}={value}"])
    again = find_needs("crash", cells(lowered), limit, on_gpu=False)
    assert again.by_name[name] <= limit
    nothing = find_needs("crash", cells(settings), PROCESS_BYTES + 1, on_gpu=False)
    assert nothing.advice.startswith("no value of ")


class Checked:
    """Inputs as a flow has them."""

    def __init__(self, settings: Any) -> None:
        self.precision, self.task = "float32", resolve_task(settings.task.model_dump())


def test_a_run_asks_once_and_refuses_what_never_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(small_settings(tmp_path), ["place.memory_gb=0.6"])
    calls = []

    def inline(module: str, function: str, *arguments: Any) -> Any:
        calls.append(function)
        return find_needs(*arguments)

    monkeypatch.setattr("flows.running.expected_memory.call_in_child", inline)
    inputs: Any = Checked(settings)
    expected = ExpectedMemory("crash", [("", settings, inputs)])
    assert expected("report") == int(PROCESS_BYTES)
    assert expected("no such stage") is None
    assert calls == ["find_needs"]
    tight = read_settings(small_settings(tmp_path), ["place.memory_gb=0.5001"])
    with pytest.raises(EnvironmentFault, match=r"needs about 0\.5 GB of main memory, and stages here have 0\.5 GB"):
        ExpectedMemory("crash", [("", tight, inputs)])("report")


def test_without_an_estimate_nothing_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = read_settings(small_settings(tmp_path), [])

    def failing(*_: Any) -> Any:
        raise RuntimeError("no such family")

    monkeypatch.setattr("flows.running.expected_memory.call_in_child", failing)
    inputs: Any = Checked(settings)
    assert ExpectedMemory("crash", [("", settings, inputs)])("report") is None
    assert "so none is reserved (RuntimeError: no such family)" in caplog.text


def test_a_run_that_never_fits_ends_before_anything_is_computed(tmp_path: Path) -> None:
    done = crash("run", str(small_settings(tmp_path)), "--set", "place.memory_gb=0.5001")
    assert done.returncode == 4
    assert "of main memory, and stages here have 0.5 GB" in done.stderr
    assert "Traceback" not in done.stderr
    artifacts = {path.parent.parent.name for path in tmp_path.rglob("manifest.json")}
    assert artifacts <= {"check"}
