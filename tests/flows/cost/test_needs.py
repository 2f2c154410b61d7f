"""The memory that a flow expects of its stages: for every stage that it submits, and advice where it cannot be had."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cost.needs import CONTEXT_BYTES, FLOWS, PROCESS_BYTES, SMALLEST_PASS, find_needs, gpu_memory
from flows.running.expected_memory import ExpectedMemory
from flows.settings.kinds import EmulateSettings, StudySettings
from flows.settings.reading import read_settings
from tasks.core.errors import EnvironmentFault
from tasks.data.lengths import measure
from tasks.data.resolving import resolve_task
from tasks.engine.memory import Need
from tasks.models.folder_tensors import count_parameters
from tests.flows.commands import crash, small_settings
from tests.places import ROOT

ENOUGH = 1e15
ENOUGH_TOTAL = Need(ENOUGH)


def cells(settings: Any) -> list[tuple[str, str, Any]]:
    return [("", settings.model_dump_json(), resolve_task(settings.task.model_dump()))]


def test_every_stage_of_a_run_has_its_need(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32"])
    needs, _, advice = find_needs("crash", cells(settings), ENOUGH, num_gpus=0)
    assert not advice
    assert {name.split(" · ")[0] for name in needs} >= {"capture", "cluster", "tune", "evaluate", "report"}
    assert all(need.main >= PROCESS_BYTES and need.gpu == 0 for need in needs.values())
    tune = next(need for name, need in needs.items() if name.startswith("tune"))
    assert tune.main > needs["report"].main


def test_every_flow_that_computes_has_an_estimate() -> None:
    trees = (ast.parse(path.read_text()) for path in (ROOT / "flows").rglob("*.py"))
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    started = [call.args[1] for call in calls if getattr(call.func, "id", "") == "started"]
    begun = {name.value for name in started if isinstance(name, ast.Constant)}
    assert begun >= {"crash", "search", "emulate", "tune", "plug-in", "audit"}
    assert FLOWS.keys() == begun | {"study"}


def test_the_owner_of_an_emulator_has_the_needs_of_a_run(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32", 'strategy="crash"'], EmulateSettings)
    needs = {flow: find_needs(flow, cells(settings), ENOUGH, num_gpus=0)[0] for flow in ("emulate", "plug-in")}
    assert needs["emulate"].keys() >= {"capture", "evaluate · full", "evaluate · crash emulator"}
    assert needs["emulate"] == needs["plug-in"]


def test_on_a_gpu_only_the_weights_pass_through_main_memory(tmp_path: Path) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32"])
    here, there = (find_needs("crash", cells(settings), ENOUGH, num_gpus)[0] for num_gpus in (0, 1))
    weights = there["capture"].main
    assert PROCESS_BYTES < weights < max(need.main for need in here.values())
    assert all(need.main == weights for name, need in there.items() if name.startswith("evaluate"))
    assert all(need.main > weights for name, need in there.items() if name.startswith("tune")), "checkpoints"
    assert there["report"] == here["report"]
    for name, need in there.items():
        if name.startswith("tune"):
            # On a CPU, gaps between tensors are counted beside them.
            assert need.gpu - CONTEXT_BYTES < here[name].main - PROCESS_BYTES
        elif need.gpu:
            assert need.gpu - CONTEXT_BYTES == pytest.approx(here[name].main - PROCESS_BYTES)


class Gpu:
    """Properties of a GPU as torch gives them."""

    def __init__(self, total_memory: int) -> None:
        self.total_memory = total_memory


def test_a_stage_may_get_the_smallest_gpu_and_several_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [80, 24, 40]
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(sizes))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda place: Gpu(sizes[place]))
    assert [gpu_memory(count) for count in (1, 2, 3)] == [24, 64, 144]
    sizes.clear()
    assert gpu_memory(1) == math.inf


def test_what_fits_no_gpu_gets_smaller_passes_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32"])
    whole, _, _ = find_needs("crash", cells(settings), ENOUGH, num_gpus=1)
    name = max((each for each in whole if each.startswith("tune")), key=lambda each: whole[each].gpu)
    monkeypatch.setattr("flows.running.expected_memory.visible_gpus", lambda: ["0"])
    monkeypatch.setattr("flows.running.expected_memory.SMALL_PARAMETERS", 0)
    monkeypatch.setattr(
        "flows.running.expected_memory.call_in_child",
        lambda module, function, *arguments, stopped: find_needs(*arguments),
    )
    inputs: Any = Checked(settings)
    monkeypatch.setattr("flows.cost.needs.gpu_memory", lambda count: whole[name].gpu - 1)
    need = ExpectedMemory("crash", [("", settings, inputs)])(name)
    assert need is not None
    assert 0 < need.pass_tokens < settings.tune.max_tokens
    assert need.gpu < whole[name].gpu
    monkeypatch.setattr("flows.cost.needs.gpu_memory", lambda count: CONTEXT_BYTES + 1)
    expected = ExpectedMemory("crash", [("", settings, inputs)])
    assert expected("report") == Need(PROCESS_BYTES), "what fits is computed"
    with pytest.raises(EnvironmentFault, match=r"needs about .* GB of GPU memory, .*: no smaller tune\.max_tok"):
        expected(name)


def test_a_stage_that_does_not_fit_gets_the_largest_half_of_its_passes_that_does(tmp_path: Path) -> None:
    path = small_settings(tmp_path)
    settings = read_settings(path, ["model.precision=float32"])
    whole, _, _ = find_needs("crash", cells(settings), ENOUGH, num_gpus=0)
    assert not any(need.pass_tokens for need in whole.values())
    name = max((each for each in whole if each.startswith("tune")), key=whole.__getitem__)
    limit = whole[name].main - 1
    needs, _, advice = find_needs("crash", cells(settings), limit, num_gpus=0)
    value = needs[name].pass_tokens
    assert name not in advice
    assert needs[name].main <= limit
    for tokens, fits in ((value, True), (2 * value, False)):
        lowered = read_settings(path, ["model.precision=float32", f"tune.max_tokens={tokens}"])
        again, _, _ = find_needs("crash", cells(lowered), ENOUGH, num_gpus=0)
        assert (again[name].main <= limit) == fits
    _, _, nothing = find_needs("crash", cells(settings), PROCESS_BYTES + 1, num_gpus=0)
    assert nothing[name].startswith("no smaller tune.max_tokens fits: take ")


def test_a_capture_that_does_not_fit_loads_its_blocks_one_at_a_time(tmp_path: Path) -> None:
    path = small_settings(tmp_path)
    settings = read_settings(path, ["model.precision=float32"])
    smallest = read_settings(path, ["model.precision=float32", f"support.max_tokens={SMALLEST_PASS}"])
    limit = find_needs("crash", cells(smallest), ENOUGH, num_gpus=0)[0]["capture"].main - 1
    needs, _, advice = find_needs("crash", cells(settings), limit, num_gpus=0)
    assert needs["capture"].streamed
    assert needs["capture"].main < limit
    assert "capture" not in advice
    streamed = {name for name, need in needs.items() if need.streamed}
    assert streamed <= {name for name in needs if name == "capture" or name.startswith("evaluate")}
    assert not any("emulator" in name for name in streamed)
    never = read_settings(path, ["model.precision=float32", "place.stream_blocks=never"])
    needs, _, advice = find_needs("crash", cells(never), limit, num_gpus=0)
    assert needs["capture"].main > limit
    assert "capture" in advice


@pytest.mark.parametrize("writes", [False, True])
def test_a_model_that_writes_text_is_loaded_whole(writes, tmp_path, monkeypatch):
    settings = read_settings(small_settings(tmp_path), ["model.precision=float32", "place.stream_blocks=always"])
    monkeypatch.setattr("flows.cost.needs.measure", lambda *given: replace(measure(*given), writes=writes))
    needs, _, _ = find_needs("crash", cells(settings), ENOUGH, num_gpus=0)
    streamed = {name for name, need in needs.items() if need.streamed}
    assert "capture" in streamed
    assert any(name.startswith("evaluate") for name in streamed) != writes


class Checked:
    """Inputs as a flow has them."""

    def __init__(self, settings: Any) -> None:
        self.precision, self.task = "float32", resolve_task(settings.task.model_dump())
        self.model = SimpleNamespace(path=settings.model.name)
        self.num_parameters = count_parameters(Path(settings.model.name))


def test_a_run_asks_once_and_refuses_what_never_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(small_settings(tmp_path), ["place.memory_gb=0.6"])
    calls = []

    def inline(module: str, function: str, *arguments: Any, stopped: Any) -> Any:
        calls.append(function)
        return find_needs(*arguments)

    monkeypatch.setattr("flows.running.expected_memory.call_in_child", inline)
    inputs: Any = Checked(settings)
    expected = ExpectedMemory("crash", [("", settings, inputs)])
    assert expected("report") == Need(PROCESS_BYTES)
    assert expected("no such stage") is None
    needs, _, _ = find_needs("crash", cells(settings), ENOUGH, num_gpus=0)
    largest = max((name for name in needs if name.startswith("tune")), key=needs.__getitem__)
    assert expected("tune · of a plan that was not foreseen") == expected(largest)
    assert calls == ["find_needs"]
    tight = read_settings(small_settings(tmp_path), ["place.memory_gb=0.5001"])
    refusing = ExpectedMemory("crash", [("", tight, inputs)])
    assert refusing("report") == Need(PROCESS_BYTES), "what fits is computed"
    with pytest.raises(EnvironmentFault, match=r"needs about 0\.6 GB of main memory, and stages here have 0\.5 GB"):
        refusing(largest)


def test_without_an_estimate_nothing_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = read_settings(small_settings(tmp_path), ["place.memory_gb=9"])

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such family")

    monkeypatch.setattr("flows.running.expected_memory.call_in_child", failing)
    inputs: Any = Checked(settings)
    assert ExpectedMemory("crash", [("", settings, inputs)])("report") is None
    assert "so none is reserved (RuntimeError: no such family)" in caplog.text


def test_a_small_model_on_a_large_machine_needs_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(small_settings(tmp_path), [])
    calls = []
    monkeypatch.setattr(
        "flows.running.expected_memory.call_in_child", lambda *given, **_: calls.append(given) or ({}, ENOUGH_TOTAL, {})
    )
    inputs: Any = Checked(settings)
    for total, expected in ((64e9, 0), (4e9, 1)):
        monkeypatch.setattr("flows.running.expected_memory.total_memory", lambda found=total: int(found))
        assert ExpectedMemory("crash", [("", settings, inputs)])("report") is None
        assert len(calls) == expected


def test_a_run_that_never_fits_ends_before_anything_is_computed(tmp_path: Path) -> None:
    done = crash("run", str(small_settings(tmp_path)), "--set", "place.memory_gb=0.5001")
    assert done.returncode == 4
    assert "of main memory, and stages here have 0.5 GB" in done.stderr
    assert "Traceback" not in done.stderr
    artifacts = {path.parent.parent.name for path in tmp_path.rglob("manifest.json")}
    assert artifacts == {"check"}


@pytest.mark.parametrize(("pairs", "streams"), [(False, True), (True, False)])
def test_the_importance_of_blocks_on_disk(pairs: bool, streams: bool, tmp_path: Path) -> None:
    changes = ["model.precision=float32", 'study.parts=["importance"]', f"study.pairs={str(pairs).lower()}"]
    changes += [f"study.rewound={str(pairs).lower()}", 'place.stream_blocks="always"']
    settings = read_settings(small_settings(tmp_path), changes, StudySettings)
    needs, _, _ = find_needs("study", cells(settings), ENOUGH, num_gpus=0)
    found = [need for name, need in needs.items() if name.startswith("importance")]
    assert [need.streamed for need in found] == [streams] * len(found)
    assert found
