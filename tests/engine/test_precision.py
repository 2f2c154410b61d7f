"""The number format that `auto` chooses: measured once for each machine and kept."""

import json

import pytest

from tasks.core.errors import CrashError, EnvironmentFault
from tasks.core.rates import measure_rates
from tasks.engine import precision
from tasks.engine.precision import RATES_FILE, faster_format, machine_rates, resolve_precision


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    """Forget the rates that this process has measured before."""
    monkeypatch.setattr(precision, "_measured", {})


FAST = {"float32": 40e9, "bfloat16": 130e9}
EVEN = {"float32": 40e9, "bfloat16": 44e9}


def test_auto_is_the_format_that_is_clearly_faster(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    for rates, chosen in ((FAST, "bfloat16"), (EVEN, "float32")):
        monkeypatch.setattr("tasks.engine.precision.machine_rates", lambda _, found=rates: found)
        assert resolve_precision("auto", tmp_path) == chosen
        assert f"auto: {chosen} (float32 40 GFLOP/s, bfloat16 {rates['bfloat16'] / 1e9:.0f} GFLOP/s)" in caplog.text
        assert resolve_precision("float32", tmp_path) == "float32"


def test_the_machine_is_measured_once_whatever_the_second_measurement_would_say(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    first = machine_rates(tmp_path)
    assert all(1e8 < rate < 1e14 for rate in first.values())
    monkeypatch.setattr(precision, "call_in_child", lambda *_: pytest.fail("measured again"))
    assert machine_rates(tmp_path) == first
    ((name, kept),) = json.loads((tmp_path / RATES_FILE).read_text()).items()
    assert kept == first
    assert ", torch 2." in name


@pytest.mark.parametrize("broken", ["", "[]", '{"a": 1}', '{"a": {"float32": null}}'])
def test_another_machine_or_a_broken_file_is_measured(monkeypatch, tmp_path, broken):
    measured = []

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(precision, "call_in_child", lambda *given: measured.append(given[-1]) or FAST)
    (tmp_path / RATES_FILE).write_text(broken)
    assert machine_rates(tmp_path) == FAST
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: Fast\nflags\t\t: b a\n\nmodel name\t: Fast\nflags\t\t: b a\n")
    assert machine_rates(tmp_path) == FAST
    (tmp_path / "cpuinfo").write_text("model name\t: Fast\nflags\t\t: b a amx_bf16\n")
    assert machine_rates(tmp_path) == FAST
    assert measured == ["cpu"] * 3
    assert len(json.loads((tmp_path / RATES_FILE).read_text())) == 3


def test_a_gpu_that_torch_cannot_use_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="CUDA_VISIBLE_DEVICES"):
        machine_rates(tmp_path)


def test_a_gpu_that_other_work_fills_is_measured_by_the_next_run(monkeypatch, tmp_path, caplog):
    def full(*_):
        raise CrashError("measure_alone failed: OutOfMemoryError")

    monkeypatch.setattr(precision, "call_in_child", full)
    for gpus, chosen in (("", "float32"), ("0", "bfloat16")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        assert resolve_precision("auto", tmp_path) == chosen
    assert "as the rates cannot be measured now" in caplog.text
    assert not (tmp_path / RATES_FILE).exists()


def test_measuring_takes_a_moment():
    import time

    measure_rates("cpu")
    begun = time.monotonic()
    measure_rates("cpu")
    assert time.monotonic() - begun < 0.3


def test_the_faster_format_needs_a_margin():
    assert faster_format({"float32": 1.0, "bfloat16": 1.19}) == "float32"
    assert faster_format({"float32": 1.0, "bfloat16": 1.2}) == "bfloat16"
