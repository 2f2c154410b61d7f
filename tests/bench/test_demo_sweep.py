"""The demo's comparison of eight emulators, three tuning seeds each, by the real command."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.commands import crash

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
NUM_VARIANTS = 8
# The demo has to be a matter of minutes: 24 tunings and their scores on two cores.
MAX_SECONDS = 900


def test_the_comparison_of_eight_emulators(tmp_path: Path, row: Callable[[str, str, str], None]) -> None:
    begun = time.monotonic()
    done = crash("sweep", "demo.toml", "--set", f"place.home={tmp_path}", timeout=1200)
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    [table] = (tmp_path / "store" / "artifacts" / "collect").glob("*/sweep.json")
    found = json.loads(table.read_text())
    values = {(each.get("variant"), each["strategy"], each["setting"]): each["value"] for each in found["rows"]}
    variants = {variant for variant, _, setting in values if setting == "plug_in"}
    assert len(variants) == NUM_VARIANTS
    row("crash sweep demo.toml, eight variants, three seeds", f"{seconds:.0f} s", f"<= {MAX_SECONDS} s")
    for variant, strategy, setting in values:
        if setting == "plug_in":
            own = (values[variant, strategy, name] for name in ("emulator_zero_shot", "emulator_fine_tuned", setting))
            row(f"{variant}: emulator zero-shot, tuned, plug-in", ", ".join(f"{value:.3f}" for value in own), "")
    assert seconds <= MAX_SECONDS
    # Without a look at the questions, distilled blocks answer more of them.
    assert values["KD", "uniform", "emulator_zero_shot"] > values["uniform", "uniform", "emulator_zero_shot"]
