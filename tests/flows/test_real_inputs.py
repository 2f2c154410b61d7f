"""`crash run` on other models and other kinds of data, each to the end and its report."""

import json
import shutil
from pathlib import Path

import pytest

from tests.flows.commands import crash

pytestmark = pytest.mark.usefixtures("one_prefect")

SETTINGS = """
strategy = ["uniform"]
[model]
name = "{model}"
[task]
name = "{task}"
kind = "{kind}"
data = "{data}"
num_train = 12
num_validation = 12
num_test = 12
[support]
num_rows = 12
[plan]
num_kept = 3
num_tuned = 2
[tune]
learning_rate = 1e-4
num_steps = 2
batch_size = 4
eval_steps = 1
[place]
home = "{home}"
"""


def run(folder: Path, model: Path, task: str, data: Path, kind: str = "lm_eval") -> dict:
    """The report's facts."""
    path = folder / "settings.toml"
    path.write_text(SETTINGS.format(model=model, task=task, kind=kind, data=data, home=folder / "home"))
    done = crash("run", str(path), timeout=580)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    [report] = (folder / "home/store/artifacts/report").iterdir()
    assert (report / "report.html").stat().st_size > 10_000
    return json.loads((report / "report.json").read_text())


def values(report: dict) -> dict[str, float]:
    """Setting to value."""
    return {row["setting"]: row["value"] for row in report["rows"]}


def test_a_real_model_on_a_real_task(real_data: Path, tmp_path: Path) -> None:
    report = run(tmp_path, real_data / "models" / "stories260K", "arc_easy", real_data / "tasks" / "arc_easy")
    assert 0 <= values(report)["plug_in"] <= 1


def test_plain_text_is_scored_by_perplexity(real_data: Path, tmp_path: Path) -> None:
    report = run(tmp_path, real_data / "models" / "stories260K", "own text", real_data / "text" / "wikitext", "text")
    assert values(report)["full_zero_shot"] > 1
    assert {row["metric"] for row in report["rows"]} == {"perplexity"}


def test_instructions_of_ones_own(real_data: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say the number {n}.", "output": f"The number is {n}."} for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(tmp_path, real_data / "models" / "stories260K", "own", tmp_path / "rows.jsonl", "instructions")
    assert values(report)["full_fine_tuned"] < values(report)["full_zero_shot"]


@pytest.mark.slow_faults
def test_a_random_model_of_125_million_parameters(real_data: Path, tmp_path: Path) -> None:
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    model = tmp_path / "opt-125m"
    OPTForCausalLM(OPTConfig()).save_pretrained(model)
    for file in (real_data / "tokenizers" / "opt").iterdir():
        shutil.copy(file, model)
    report = run(tmp_path, model, "arc_easy", real_data / "tasks" / "arc_easy")
    assert 0 <= values(report)["plug_in"] <= 1
