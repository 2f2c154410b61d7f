"""Perplexity of the five settings: a model that has read Wikipedia for some minutes is tuned for WikiText."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.small_model import make_model
from tests.flows.commands import crash

TEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "text"
SECONDS = float(os.environ.get("CRASH_BENCH_PRETRAIN_SECONDS", "300"))

SETTINGS = """
strategy = ["uniform", "crash"]
[model]
name = "{model}"
precision = "float32"
[task]
name = "wikitext"
kind = "text"
data = "{data}"
num_train = 1200
num_test = 1000
[support]
num_rows = 256
split = "train"
max_tokens = 8192
[plan]
num_kept = 6
num_tuned = 4
[tune]
learning_rate = 5e-4
num_steps = 100
batch_size = 16
[place]
home = "{home}"
"""

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not TEXT.is_dir(), reason=f"needs WikiText and Wikipedia in {TEXT}"),
]


def test_perplexity_of_the_five_settings(tmp_path: Path, row: Callable[[str, str, str], None]) -> None:
    loss = make_model(TEXT / "wikipedia" / "train.jsonl", tmp_path / "model", SECONDS)
    row(f"small model after {SECONDS:.0f} s on Wikipedia: training loss", f"{loss:.2f} nats", "")
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS.format(model=tmp_path / "model", data=TEXT / "wikitext", home=tmp_path / "home"))
    done = crash("run", str(settings), timeout=2000)
    assert done.returncode == 0, done.stderr
    [report] = (tmp_path / "home" / "store" / "artifacts" / "report").glob("*/report.json")
    values = {(each["strategy"], each["setting"]): each["value"] for each in json.loads(report.read_text())["rows"]}
    zero_shot, tuned = values["full", "full_zero_shot"], values["full", "full_fine_tuned"]
    row("WikiText perplexity of the full model, zero-shot, tuned", f"{zero_shot:.1f}, {tuned:.1f}", "tuned < zero-shot")
    for name in ("uniform", "crash"):
        own = [values[name, setting] for setting in ("emulator_zero_shot", "emulator_fine_tuned", "plug_in")]
        row(f"{name}: emulator zero-shot, emulator tuned, plug-in", ", ".join(f"{value:.1f}" for value in own), "")
        # Tuning on the task's text lowers the emulator's perplexity, whatever the order of the others.
        assert own[1] < own[0]
    assert tuned < zero_shot
