"""Run the real command in a process of its own."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.places import DEMO, ROOT
from tests.prefect_server import VARIABLE

BIN = Path(sys.executable).parent
CRASH = BIN / "crash"

SMALL = """
strategy = ["uniform", "crash"]
[model]
name = "{model}"
precision = "float32"
[task]
name = "people"
data = "{data}"
num_train = 64
num_test = 24
[support]
num_rows = 32
split = "train"
[plan]
num_kept = 6
share = {{crash = "frozen_only"}}
[tune]
learning_rate = 5e-4
num_steps = 4
batch_size = 8
[place]
home = "{home}"
mlflow = "later"
"""
# Takes place.mlflow back to its default. Runs of these settings do without: MLflow's import takes longer than they do.
TRACKED = ("--set", "place.mlflow=")


def small_settings(folder: Path, **changes: str) -> Path:
    """Settings of a run on the demo's model and task that takes seconds."""
    values = {"model": str(DEMO / "model"), "data": str(DEMO / "task"), "home": str(folder / "home"), **changes}
    path = folder / "settings.toml"
    path.write_text(SMALL.format(**values))
    return path


def crash(
    *arguments: str, timeout: float = 300, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`crash ARGUMENTS`, with what it printed. cwd: the folder in which it runs."""
    variables = clean_environment(**environment)
    command = [str(CRASH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=variables, cwd=cwd)


def run_module(module: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` from the root of the sources, with what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT)


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment without what another test's servers or settings left in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "CRASH_"))}
    if server := changes.pop(VARIABLE, kept.pop(VARIABLE, "")):
        kept["PREFECT_API_URL"] = server
    return {**kept, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **changes}


def artifacts(store: Path) -> dict[str, str]:
    """`stage/key` to content digest of all artifacts in a store."""
    found = {}
    for manifest in store.glob("artifacts/*/*/manifest.json"):
        found[f"{manifest.parent.parent.name}/{manifest.parent.name}"] = json.loads(manifest.read_text())["digest"]
    return found


def stages(names: set[str]) -> Counter[str]:
    """How many artifacts of each stage."""
    return Counter(name.partition("/")[0] for name in names)
