"""The demo of two parties, and the comparison at its end."""

import csv
import subprocess
from pathlib import Path

import pytest

from flows.demo.parties.compare import SETTINGS, main
from tasks.artifacts.party_report import PARTY_FILE
from tests.places import ROOT

SCORE = 0.1 + 0.2


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """The homes of both parties and of one process, all with the same scores."""
    found = [tmp_path / name for name in ("acme", "clinic", "together")]
    acme, clinic, together = found
    for home, key, settings in (
        (acme, "a", ("full_zero_shot", "emulator_zero_shot")),
        (acme, "b", ("full_zero_shot", "plug_in")),
        (clinic, "c", ("emulator_zero_shot", "emulator_tuned")),
    ):
        folder = home / "store/artifacts/party_report" / key
        folder.mkdir(parents=True)
        rows = [{"setting": setting, "value": SCORE} for setting in settings]
        PARTY_FILE.write(folder, {"title": "", "scores": rows, "facts": {}})
    write_table(together, dict.fromkeys(SETTINGS.values(), SCORE))
    return found


def write_table(home: Path, scores: dict[str, float]) -> None:
    """Write the table of a run."""
    folder = home / "store/artifacts/report/key"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["setting", "value"])
        table.writerows(scores.items())


def test_equal_scores_are_shown(homes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*homes) == 0
    assert "same to the last digit" in capsys.readouterr().out


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_difference_in_the_last_digit_is_an_error(
    homes: list[Path], setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(homes[2], dict.fromkeys(SETTINGS.values(), SCORE) | {SETTINGS[setting]: 0.3})
    assert main(*homes) == 1
    assert capsys.readouterr().err == f"These scores differ: {setting}\n"


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_demo_ends_with_the_scores_of_one_process() -> None:
    done = subprocess.run(["make", "demo-parties"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same to the last digit" in done.stdout
    assert "$ crash unplug plugged" in done.stdout
