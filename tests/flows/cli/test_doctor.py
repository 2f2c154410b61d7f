"""`crash doctor` makes every check of a model and a task that a run makes before it computes."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.main import main
from tests.flows.commands import DEMO, small_settings


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of `crash doctor ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


def pair(model: Path, data: Path, home: Path) -> list[str]:
    return ["--model", str(model), "--task", "people", "--data", str(data), "--home", str(home)]


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """No servers of other tests, and nothing left in the environment for them: the command prepares its own."""
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "CRASH_STORE"):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_model_and_a_task_that_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = doctor(capsys, *pair(DEMO / "model", DEMO / "task", tmp_path / "home"))
    assert "opt, 12 blocks" in printed
    assert "opt: every operation is exact" in printed
    assert "train rows" in printed
    assert "720, longest 14 tokens" in printed
    assert "480, longest 14 tokens, from the test split" in printed
    assert "6 of 12 blocks kept, 4 tuned" in printed
    assert code == 0
    assert "No problems found." in printed


def test_problems_of_both_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(shutil.copytree(DEMO / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    data = Path(shutil.copytree(DEMO / "task", tmp_path / "task"))
    (data / "train.jsonl").unlink()
    code, printed = doctor(capsys, *pair(model, data, tmp_path / "home"))
    assert code == 2
    assert "an encoder-decoder" in printed
    assert "has no training split" in printed
    assert "2 problem(s) found" in printed


def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(shutil.copytree(DEMO / "task", tmp_path / "task"))
    lines = (data / "test.jsonl").read_text().splitlines()
    lines[2] = "{"
    (data / "test.jsonl").write_text("\n".join(lines))
    code, printed = doctor(capsys, *pair(DEMO / "model", data, tmp_path / "home"))
    assert code == 2
    assert "test.jsonl, row 3" in printed


def test_a_settings_files_own_model_and_task_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = small_settings(tmp_path)
    code, printed = doctor(capsys, str(settings), "--set", "plan.num_kept=5")
    assert code == 0
    assert "uniform and crash: 5 of 12 blocks kept" in printed
    code, printed = doctor(capsys, str(settings), "--model", str(tmp_path / "nowhere"))
    assert code == 2
    assert "there is no such folder" in printed


def test_a_model_without_a_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = doctor(capsys, "--model", str(DEMO / "model"), "--home", str(tmp_path))
    assert code == 2
    assert "add --task" in printed
