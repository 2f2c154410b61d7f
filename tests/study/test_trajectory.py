"""Trajectory: the full model and models that lost blocks, row by row; the text stays in the artifact."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import InputError
from tasks.data.tokenize import load_examples
from tasks.emulate import emulate
from tasks.models.loading import load_tokenizer
from tasks.store.artifacts import Ref
from tasks.study.trajectory import trajectory
from tests.tasks.chain import NUM_BLOCKS, Chain, plain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("trajectory"))


@pytest.fixture(scope="module")
def uniform(chain: Chain) -> Ref:
    return chain.cluster(strategy="uniform", num_blocks=NUM_BLOCKS, num_kept=4, num_tuned=2)


def told(chain: Chain, **changes: Any) -> Ref:
    given = {"model": chain.model, "task": chain.task, "num_rows": 2, "split": "train", "num_positions": 5}
    return trajectory.run(chain.runtime, **given | {"precision": "float32"} | changes)


def read(chain: Chain, ref: Ref) -> dict[str, Any]:
    return json.loads((chain.open(ref) / "trajectory.json").read_text())


def test_what_it_tells(chain: Chain, uniform: Ref) -> None:
    ref = told(chain, plans={"uniform": uniform})
    found, tokenizer = read(chain, ref), load_tokenizer(chain.model)
    rows = load_examples(chain.task, "train", tokenizer, 64).rows[:2]
    emulator = plain(chain.open(emulate.run(chain.runtime, model=chain.model, plan=uniform)))
    assert [row["row"] for row in found["rows"]] == [row.row for row in rows]
    for row, each in zip(rows, found["rows"], strict=True):
        ids = [*row.prompt_ids, *row.answer_ids]
        assert each["tokens"] == [tokenizer.decode([token]) for token in ids[-5:]]
        kept = list(chain.read_plan(uniform).kept)
        assert {name: values["sources"] for name, values in each["variants"].items()} == {
            "full": list(range(NUM_BLOCKS)),
            "uniform": kept,
        }
        for name, model in {"full": chain.full, "uniform": emulator}.items():
            values = each["variants"][name]
            with torch.no_grad():
                output = model(torch.tensor([ids])).logits[0, -5:].softmax(-1)
            likeliest, top = output.max(-1)
            assert values["top"][-1] == [tokenizer.decode([token]) for token in top.tolist()]
            assert values["probability"][-1] == pytest.approx(likeliest.tolist(), rel=1e-4)
            for part in ("top", "probability", "entropy", "kl"):
                assert [len(line) for line in values[part]] == [5] * len(values["sources"])
        assert each["variants"]["full"]["kl"][-1] == [0.0] * 5
        assert min(each["variants"]["uniform"]["kl"][-1]) > 0


def test_facts_and_metrics_hold_no_text(chain: Chain, uniform: Ref) -> None:
    ref = told(chain, plans={"uniform": uniform})
    expected = {"lens": "logit", "num_rows": 2, "num_blocks": {"full": NUM_BLOCKS, "uniform": 4}}
    assert ref.summary.items() >= expected.items()
    assert all(isinstance(value, int | float | dict) for name, value in ref.summary.items() if name != "lens")
    assert not (chain.open(ref) / "metrics.jsonl").exists()


def test_a_plan_of_another_model_and_a_taken_name_are_refused(chain: Chain, uniform: Ref) -> None:
    other = chain.cluster(strategy="uniform", num_blocks=8, num_kept=4, num_tuned=2)
    with pytest.raises(InputError, match="'uniform' is for 8 blocks"):
        told(chain, plans={"uniform": other})
    with pytest.raises(InputError, match="'full' is the model itself"):
        told(chain, plans={"full": uniform})


def test_nothing_is_left_of_a_folder_that_failed(chain: Chain, tmp_path: Path) -> None:
    before = chain.num_artifacts("trajectory")
    with pytest.raises(InputError):
        told(chain, plans={"full": chain.cluster(strategy="full", num_blocks=NUM_BLOCKS)})
    assert chain.num_artifacts("trajectory") == before
