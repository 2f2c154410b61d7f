"""Report: outcomes of single rows, by which a sweep compares strategies."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks.report import OUTCOMES_FILE, _save_outcomes


def outcomes(tmp_path: Path, *scores: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is kept of the scores of one strategy's plug-ins, one for each seed."""
    for seed, one in enumerate(scores):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "scores.json").write_text(json.dumps({"per_row": [], "per_row_losses": [], **one}))
    work: Any = SimpleNamespace(open=lambda seed: tmp_path / str(seed), out=tmp_path)
    _save_outcomes(work, [{"name": "crash", "plugged_in": list(range(len(scores)))}])
    return load_file(tmp_path / OUTCOMES_FILE)


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
