"""Loss and metric of many models in a row: of plain text, whose metric is the perplexity of what is scored."""

import json
import math
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.data.resolving import resolve_task
from tasks.data.sources import TaskSource
from tasks.data.task_measure import TaskMeasure, perplexity
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tests.tasks.chain import write_model

LIMITS = {"max_length": 6, "max_tokens": 64}


@pytest.fixture
def text(tmp_path: Path) -> TaskSource:
    (tmp_path / "text").mkdir()
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"who knows number {number}? {split} does."}) for number in range(5)]
        (tmp_path / "text" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return resolve_task({"name": "words", "kind": "text", "data": str(tmp_path / "text")})


def test_plain_text(tmp_path: Path, text: TaskSource) -> None:
    _, source = write_model(tmp_path / "model")
    network, tokenizer = load_model(source), load_tokenizer(source)
    measure = TaskMeasure(network, tokenizer, text, "validation", num_rows=3, **LIMITS)
    assert (measure.metric, measure.higher_is_better, measure.num_rows) == ("perplexity", False, 3)
    rows = load_examples(text, "validation", tokenizer, 6, limit=3).rows
    found = score_tokens(network, [(row.prompt_ids, row.answer_ids) for row in rows], 6, 64)
    total, count = -sum(likelihood for likelihood, _ in found), sum(len(row.answer_ids) for row in rows)
    measured = measure(network)
    assert measured.loss == pytest.approx(total / count, rel=1e-12)
    assert measured.metric == pytest.approx(math.exp(total / count))
    assert measure.num_tokens == count == int(measured.num_tokens.sum())
    # Documents are longer than the model takes: several windows each.
    assert len(measured.row_losses) == len(rows) > 3
    with pytest.raises(InputError, match="'words': the validation split gives 1 row; take at least 2"):
        TaskMeasure(network, tokenizer, text, "validation", num_rows=1, **LIMITS)


def test_perplexities_without_end() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.exp(700)
    assert math.isnan(perplexity(math.nan))
