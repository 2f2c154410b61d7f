"""Exposure of rows by tuned blocks: canaries recognised by four ways of tuning, on the embedded model.

`python -m pytest -s -m bench tests/bench/test_canaries.py`; the table is in `docs/concepts/trust.md`.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.artifacts.exposure import exposure_summary
from tasks.artifacts.tuning import tuning_summary
from tasks.cluster import cluster
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.data.resolving import resolve_task
from tasks.emulate import emulate
from tasks.engine.runtime import Runtime
from tasks.evaluate import evaluate
from tasks.models.resolving import resolve_model
from tasks.parties.expose import expose
from tasks.tune import tune
from tests.places import DEMO

NUM_ROWS, NUM_CANARIES, SECONDS = 384, 64, 300
# Ten epochs at the demo's rate: long enough for whole blocks to memorise.
PLAIN = TrainSettings(learning_rate=5e-4, num_epochs=10, batch_size=32, warmup_steps=10)
LORA = TuningMethod("lora")
WAYS: dict[str, tuple[TrainSettings, TuningMethod]] = {
    "whole blocks": (PLAIN, WHOLE_BLOCKS),
    "DP-SGD, noise 1": (replace(PLAIN, dp_noise=1.0, dp_clip=1.0), WHOLE_BLOCKS),
    "change of at most 3%": (replace(PLAIN, max_change=0.03), WHOLE_BLOCKS),
    "LoRA of rank 4": (replace(PLAIN, learning_rate=1e-3), LORA),
}

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]


def test_canaries_by_four_ways_of_tuning(tmp_path: Path) -> None:
    runtime = Runtime(store=str(tmp_path / "store"), run_id="canaries")
    model = resolve_model(str(DEMO / "model"))
    task = resolve_task({"name": "people", "data": str(DEMO / "task"), "num_train": NUM_ROWS, "num_test": 200})
    plan = cluster.run(
        runtime, strategy="fixed", num_blocks=12, kept=(0, 1, 4, 7, 10, 11), tuned=(0, 1, 10, 11), share=None
    )
    emulator = emulate.run(runtime, model=model, plan=plan)
    untuned = evaluate.run(runtime, model=model, task=task, emulator=emulator).summary["value"]
    found, seconds, rows = {}, 0.0, [f"| not tuned | | | | | {untuned:.3f} | | |"]
    for name, (settings, method) in WAYS.items():
        how = {"settings": settings, "precision": "float32", "variant": method}
        began = time.monotonic()
        found[name] = exposure_summary(
            expose.run(runtime, task=task, emulator=emulator, num_canaries=NUM_CANARIES, **how)
        )
        seconds += time.monotonic() - began
        tuned = tune.run(runtime, task=task, plan=plan, emulator=emulator, **how)
        score = evaluate.run(runtime, model=model, task=task, emulator=emulator, tuned=tuned).summary["value"]
        summary, moved = found[name], tuning_summary(tuned).get("change_before_limit")
        rows.append(
            f"| {name} | {summary['true_positives']:.0%} | {summary['area']:.2f} | {summary['bits']:.1f} |"
            f" {summary.get('dp_epsilon', float('inf')):.1f} | {score:.3f} | {summary['seconds']:.0f} s | {moved} |"
        )
    print("\n| way | true positives at 1% false | area | bits | epsilon | score | time | moved |\n" + "\n".join(rows))
    print(f"{seconds:.0f} s in all")
    assert found["whole blocks"]["true_positives"] > 0.5
    # Among 64 canaries, 1% false positives are recognised by guessing; DP-SGD is close to that.
    assert found["DP-SGD, noise 1"]["true_positives"] < 0.1
    assert found["DP-SGD, noise 1"]["area"] < found["whole blocks"]["area"]
    assert seconds < SECONDS
