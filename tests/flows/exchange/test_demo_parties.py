"""The demo of two parties, and the comparison at its end."""

import csv
import subprocess
import time
from pathlib import Path

import pytest

from flows.demo.parties.compare import SETTINGS, main
from tasks.artifacts.party_report import PARTY_FILE
from tests.places import ROOT

SCORE = 0.1 + 0.2


# Reports of the model owner, before and after the tuning, and of the data owner.
REPORTS = (
    ("acme", "a", ("full_zero_shot", "emulator_zero_shot")),
    ("acme", "b", ("full_zero_shot", "plug_in")),
    ("clinic", "c", ("emulator_zero_shot", "emulator_tuned")),
)


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """The homes of both parties and of one process, all with the same scores."""
    found = [tmp_path / name / "home" for name in ("acme", "clinic", "together")]
    for party, key, settings in REPORTS:
        write_report(tmp_path / party / "home", key, dict.fromkeys(settings, SCORE))
    write_table(found[2], dict.fromkeys(SETTINGS.values(), SCORE))
    return found


def write_report(home: Path, key: str, scores: dict[str, float]) -> None:
    """Write one report of a party."""
    folder = home / "store/artifacts/party_report" / key
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"setting": setting, "value": value} for setting, value in scores.items()]
    PARTY_FILE.write(folder, {"title": "", "scores": rows, "facts": {}, "own": {}})


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


@pytest.mark.parametrize(
    ("party", "key", "setting"), [(party, key, setting) for party, key, settings in REPORTS for setting in settings]
)
def test_a_difference_in_the_last_digit_of_any_report_is_an_error(
    homes: list[Path], party: str, key: str, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings,) = [settings for name, report, settings in REPORTS if (name, report) == (party, key)]
    write_report(homes[0].parents[1] / party / "home", key, dict.fromkeys(settings, SCORE) | {setting: 0.3})
    assert main(*homes) == 1
    assert capsys.readouterr().err == f"These scores differ or are missing: {setting} of {party}\n"


def test_a_score_that_is_missing_is_an_error(homes: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    write_report(homes[1], "c", {"emulator_zero_shot": SCORE})
    assert main(*homes) == 1
    assert capsys.readouterr().err == "These scores differ or are missing: emulator_tuned\n"


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_demo_ends_with_the_scores_of_one_process() -> None:
    began = time.monotonic()
    done = subprocess.run(["make", "demo-parties"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same to the last digit" in done.stdout
    assert "$ crash unplug plugged" in done.stdout
    # 180 s with nothing beside it.
    assert time.monotonic() - began < 360
