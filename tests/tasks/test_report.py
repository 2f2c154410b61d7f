"""Report: outcomes of single rows, by which a sweep compares strategies."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.artifacts.report import read_outcomes
from tasks.artifacts.scores import write_scores
from tasks.artifacts.stand_ins import Runs
from tasks.core.errors import InputError
from tasks.core.evaluation.comparison import Score, compare
from tasks.core.evaluation.scores import Scores
from tasks.report import _notes, _require_same_rows, _save_outcomes
from tasks.reports.run.page import markdown, page
from tasks.reports.run.tables import channel_table, stand_ins_table
from tasks.store.artifacts import Ref


def outcomes(tmp_path: Path, *scores: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of the scores of one strategy's plug-ins, one for each seed."""
    for seed, one in enumerate(scores):
        (tmp_path / str(seed)).mkdir()
        given = {"metric": "acc", "value": 0.5, "stderr": None, "num_rows": 3, "metrics": {}, **one}
        write_scores(tmp_path / str(seed), Scores(**given))
    work: Any = SimpleNamespace(open=lambda seed: tmp_path / str(seed), out=tmp_path)
    _save_outcomes(work, [{"name": "crash", "plugged_in": list(range(len(scores)))}])
    return read_outcomes(tmp_path)


def test_right_answers_are_averaged_over_seeds(tmp_path):
    found = outcomes(
        tmp_path,
        {"higher_is_better": True, "per_row": [1.0, 0.0, 1.0]},
        {"higher_is_better": True, "per_row": [1.0, 1.0, 0.0]},
    )
    assert found["crash"].tolist() == [1.0, 0.5, 0.5]


def test_of_a_perplexity_the_mean_is_its_negative_logarithm(tmp_path):
    losses = [2.0, 3.0, 2.5]
    found = outcomes(tmp_path, {"higher_is_better": False, "per_row_losses": losses, "value": math.exp(2.5)})
    assert math.exp(-found["crash"].mean()) == pytest.approx(math.exp(2.5))


def test_what_is_no_mean_over_rows_is_not_compared(tmp_path):
    assert outcomes(tmp_path, {"higher_is_better": True}) == {}


def test_scores_of_rows_that_were_worded_differently_do_not_stand_in_one_table() -> None:
    def ref(**summary: Any) -> Ref:
        return Ref(stage="evaluate", key="0" * 64, digest="0" * 64, summary=summary)

    facts = {"task": "lots", "scored_digest": "3:aa", "train_digest": "9:bb"}
    strategy = {"name": "crash", "plan": ref(), "plugged_in": [ref(scored_digest="3:aa")], "tuning": [ref()]}
    full = {"zero_shot": ref(scored_digest="3:aa"), "tuning": [ref(train_digest="9:bb")]}
    _require_same_rows(facts, full, [strategy])
    for other in ({"scored_digest": "3:cc"}, {"train_digest": "9:cc"}):
        with pytest.raises(InputError, match=r"task .lots.: its own code words the (scored|train) rows anew"):
            _require_same_rows(facts, full, [strategy, {"name": "uniform", "tuning": [ref(**other)]}])


def test_a_report_names_emulators_that_only_guess() -> None:
    half, quarter = Score(0.5, 0.02), Score(0.26, 0.02)
    found = compare("acc", True, half, [], {"uniform": (half, [half], [half]), "crash": (quarter, [half], [half])})
    (note,) = _notes(found, 0.25, [0.1, 0.1], [3, 4], "linear_cka")
    assert "guessing (0.25) by two standard errors: crash (0.26)." in note
    assert _notes(found, None, [0.1, 0.1], [3, 4], "linear_cka") == []


def test_a_report_says_which_rows_were_left_out() -> None:
    """In the page and in the table for MLflow and Prefect."""
    half = Score(0.5)
    found = compare("acc", True, half, [], {"crash": (half, [half], [half])})
    facts: dict[str, Any] = {"task": "lots", "scored_from": "train", "validation_from": "train"}
    for number, split in enumerate(("train", "validation", "scored")):
        facts |= {f"num_{split}_rows": 70 + number, f"{split}_digest": f"{70 + number}:00ff{number}"}
    facts |= {"num_train_scored_duplicates": 4}
    channels, notes = channel_table([0.1, 0.825], [3, 507]), ["One channel <507> holds much."]
    shown = page(found, facts, {}, {}, channels, notes)
    assert re.search(r"block 0</td>\s*<td[^>]*>507</td>\s*<td[^>]*>82%</td>", shown)
    assert "One channel &lt;507&gt; holds much." in shown
    assert notes[0] in markdown(found, facts, notes)
    for text in (markdown(found, facts), shown):
        assert "72 are scored, 71 validate, 70 are trained on; the scores are not those of the whole benchmark" in text
        assert "Rows of train left out because a scored row says the same: 4." in text
        assert all(f"00ff{number}" in text for number in range(3))
    assert "left out" not in markdown(found, {"task": "lots"})


def test_a_report_shows_how_far_off_linear_stand_ins_are() -> None:
    half = Score(0.5)
    found = compare("acc", True, half, [], {"spans": (half, [half], [half])})
    runs: Runs = {
        **{"fronts": [2, 7], "lasts": [5, 8], "paths": ["mlp", "mlp"]},
        **{"errors": [0.1234, 0.2], "errors_without": [0.5, 0.25]},
    }
    channels = channel_table([0.1], [3])
    shown = page(found, {"task": "lots"}, {}, {}, channels, stand_ins=stand_ins_table({"spans": runs}))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown[shown.index("Linear stand-ins") :])
    assert cells[:10] == [
        *("spans", "3 to 5", "block 2", "12.3%", "50.0%"),
        *("spans", "8", "block 7", "20.0%", "25.0%"),
    ]
    assert "Linear stand-ins" not in page(found, {"task": "lots"}, {}, {}, channels)
