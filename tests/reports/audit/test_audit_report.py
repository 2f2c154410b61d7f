"""The report of a recovery audit: numbers, tables and the picture from losses and scores made by hand."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flows.settings.audit import FILLS as SETTINGS
from tasks.artifacts.audit import AUDIT_FILE, Audit
from tasks.core.errors import InputError
from tasks.engine.runtime import Runtime
from tasks.parties.audit_report import audit_report
from tasks.reports.audit.figure import LOOKS, draw
from tasks.reports.audit.table import FILLS
from tasks.store.artifacts import Ref, Store
from tests.reports.reading import labels, legend, ticks, title

VOCABULARY = 1000
GUESSING = math.log(VOCABULARY)
FACTS = {"model": "small", "vocabulary": VOCABULARY, "num_steps": 10, "batch_size": 2, "block": 33}
FACTS |= {"trained_tokens": 640}
LOSSES = [
    ("crash", [1, 2, 4], "none", 0, 4.0),
    ("crash", [1, 2, 4], "nearest", 3, 9.0),
    ("bottom", [0, 1, 2], "distilled", 3, 3.0),
]


def ref(stage: str, number: float, **summary: Any) -> Ref:
    return Ref(stage=stage, key=f"{stage}{number}", digest=f"{number}", summary=summary)


def loss(value: float) -> Ref:
    return ref("validate", value, loss=value, stderr=0.1, num_tokens=500, num_rows=7, validation_digest="d")


def score(value: float) -> Ref:
    facts = {"metric": "acc", "stderr": 0.02, "num_rows": 20, "higher_is_better": True, "chance": 0.25}
    return ref("evaluate", value, value=value, **facts)


def report(folder: Path, full_loss: float = 2.0) -> tuple[Ref, Path]:
    losses = [
        {"hidden": hidden, "blocks": blocks, "share": 0.4, "fill": fill, "num_filled": number, "loss": loss(value)}
        for hidden, blocks, fill, number, value in LOSSES
    ]
    scores = [{"hidden": "crash", "fill": "none", "task": task, "score": score(0.3)} for task in ("arc", "piqa")]
    given = {"full": loss(full_loss), "full_scores": {"arc": score(0.6), "piqa": score(0.4)}}
    made = audit_report.run(Runtime(store=str(folder)), facts=FACTS, losses=losses, scores=scores, **given)
    return made, Store(folder).open(made)


@pytest.fixture
def found(tmp_path: Path) -> Audit:
    return AUDIT_FILE.read(report(tmp_path)[1])


def test_shares_are_between_guessing_and_the_full_model(tmp_path: Path) -> None:
    made, folder = report(tmp_path)
    content = json.loads((folder / "audit.json").read_text())
    assert (content["full_loss"], content["guessing"]) == (2.0, GUESSING)
    shares = [(GUESSING - value) / (GUESSING - 2.0) for *_, value in LOSSES]
    assert [row["recovery"] for row in content["losses"]] == pytest.approx(shares)
    assert made.summary == {"recovery": pytest.approx(shares[2]), "hidden": "bottom", "fill": "distilled"}
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [(row["hidden"], row["blocks"], row["fill"]) for row in rows] == [
        ("crash", "1 2 4", "none"),
        ("crash", "1 2 4", "nearest"),
        ("bottom", "0 1 2", "distilled"),
    ]


def test_the_table_says_what_is_hidden_and_what_came_back(tmp_path: Path) -> None:
    text = " ".join((report(tmp_path)[1] / "table.md").read_text().split())
    assert text.startswith("small: what comes back of hidden blocks.")
    assert f"2.0000 for the full model, {GUESSING:.4f} for guessing" in text
    assert "| crash | 1-2, 4 | 40.0% | copies of the nearest known block | 3 of 3 |" in text
    assert "7 documents, 500 tokens" in text
    assert "10 steps of 2 windows of 33 tokens, 640 tokens in all" in text
    assert (report(tmp_path)[1] / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_each_task_has_its_share_of_the_full_score(found: Audit) -> None:
    assert [(row["task"], row["fill"], row["capability"]) for row in found["scores"]] == [
        ("arc", "", 1.0),
        ("arc", "none", pytest.approx(0.5)),
        ("piqa", "", 1.0),
        ("piqa", "none", pytest.approx(0.75)),
    ]


def test_a_full_model_that_guesses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing can be recovered"):
        report(tmp_path, full_loss=GUESSING + 0.1)


def test_every_fill_of_the_settings_has_words_and_a_look() -> None:
    assert list(FILLS) == list(LOOKS) == ["none", *SETTINGS]


def test_the_picture_has_a_row_for_each_place_and_a_marker_for_each_fill(saved: dict[str, Any], found: Audit) -> None:
    draw(found, Path("audit.png"))
    (axes,) = saved["audit"].axes
    assert title(axes) == "What comes back of hidden blocks: small"
    assert labels(axes) == ("recovery: share of what the full model's loss is below guessing (%)", "hidden")
    assert ticks(axes.yaxis) == {0.0: "crash (3 blocks, 40%)", 1.0: "bottom (3 blocks, 40%)"}
    assert legend(saved["audit"]) == [FILLS[fill] for fill in ("none", "nearest", "distilled")]
    places = {each.get_label(): each.get_offsets().tolist() for each in axes.collections}
    assert places[FILLS["distilled"]] == [[pytest.approx(100 * (GUESSING - 3) / (GUESSING - 2)), 1.0]]
    # Worse than guessing: at the edge, and the note says so.
    assert places[FILLS["nearest"]] == [[-10.0, 0.0]]
    assert any("worse than −10%" in text.get_text() for text in axes.texts)
