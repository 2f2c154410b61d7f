"""The real command: hidden blocks are filled in in every way, and all of it is found again."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.flows.commands import DEMO, artifacts, crash, small_settings, stages

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.timeout(600)]
AUDIT = """
[distill]
data = "{text}"
block = 32
[audit]
positions = ["bottom"]
num_documents = 8
num_steps = 2
batch_size = 2
[[exchange.held_out]]
name = "others"
data = "{others}"
num_test = 16
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = small_settings(tmp_path_factory.mktemp("audit"))
    text = path.read_text().replace('strategy = ["uniform", "crash"]', 'strategy = "uniform"')
    others = path.parent / "others"
    shutil.copytree(DEMO / "task", others)
    definition = others / "people.yaml"
    definition.write_text(definition.read_text().replace("task: people", "task: others"))
    path.write_text(text + AUDIT.format(text=DEMO / "text", others=others))
    return path


def content(settings: Path) -> dict[str, Any]:
    (folder,) = (settings.parent / "home/store/artifacts/audit_report").iterdir()
    return json.loads((folder / "audit.json").read_text())


def test_every_fill_is_measured_and_found_again(settings: Path) -> None:
    store = settings.parent / "home/store"
    first = crash("audit", str(settings))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "what comes back of hidden blocks" in first.stdout
    assert "audit.png" in first.stdout
    kept = artifacts(store)
    made = stages(set(kept))
    # Of the full model, of the emulator, and of the bottom, where no linear map is possible; scores on two tasks.
    assert (made["validate"], made["evaluate"], made["audit_report"]) == (1 + 5 + 4, 2 * (1 + 5), 1)
    assert (made["fill"], made["distill"], made["stand_ins"]) == (2, 4, 1)
    assert "tune" not in made
    found = content(settings)
    names = ["none", "nearest", "linear", "trained", "distilled"]
    fills = [(row["hidden"], row["fill"]) for row in found["losses"]]
    assert fills == [
        *(("uniform", name) for name in names),
        *(("bottom", name) for name in names if name != "linear"),
    ]
    assert found["guessing"] == math.log(found["facts"]["vocabulary"])
    by_place = {row["hidden"]: row["blocks"] for row in found["losses"]}
    assert by_place["bottom"] == [0, 1, 2, 3, 4, 5]
    assert len(by_place["uniform"]) == 6
    for row in found["losses"]:
        span = found["guessing"] - found["full_loss"]
        assert row["recovery"] == pytest.approx((found["guessing"] - row["loss"]) / span)
    for task in ("people", "others"):
        full, *others = [row for row in found["scores"] if row["task"] == task]
        assert full["capability"] == 1.0
        assert [row["fill"] for row in others] == names
        assert others[0]["capability"] == pytest.approx(others[0]["value"] / full["value"])

    again = crash("audit", str(settings))
    assert again.returncode == 0, again.stdout + again.stderr
    assert artifacts(store) == kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("plan.num_kept=12", "strategy uniform keeps all 12 blocks"),
        ('audit.fills=["magic"]', "audit.fills"),
        ('audit.positions=["left"]', "audit.positions"),
        ('audit.fills=["nearest", "nearest"]', "names one twice"),
        ("distill.data=", "an audit needs distill.data"),
        ('exchange.held_out=[{name="nowhere"}]', "nowhere"),
        (f'exchange.held_out=[{{name="people", data="{DEMO / "task"}"}}]', "people appears twice"),
        ("plan.share=harmonizers", "has harmonizers in the places of hidden blocks"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(settings: Path, change: str, words: str) -> None:
    before = artifacts(settings.parent / "home/store")
    done = crash("audit", str(settings), "--set", change, "--set", f"place.home={settings.parent / 'other'}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert set(stages(set(artifacts(settings.parent / "other/store")))) <= {"check"}
    assert artifacts(settings.parent / "home/store") == before
