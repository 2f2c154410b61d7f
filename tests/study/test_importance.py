"""Importance: the stage's losses are those of `validate`, and its errors name what is wrong."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.blocks.surgery import get_blocks, rearranged
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.data.tokenize import load_examples
from tasks.engine.work import Work
from tasks.models.loading import load_model, load_tokenizer
from tasks.plug_in import plug_in
from tasks.study.importance import importance
from tasks.validate import validate
from tests.tasks.chain import NUM_BLOCKS, Chain, people


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("importance"))


def loss_of(chain: Chain, network: Any) -> float:
    """The mean loss over answer tokens, as `validate` computes it."""
    rows = load_examples(chain.task, "validation", load_tokenizer(chain.model), chain.model.context).rows
    scored = score_tokens(network, [(row.prompt_ids, row.answer_ids) for row in rows], chain.model.context, 100)
    return -sum(likelihood for likelihood, _ in scored) / sum(len(row.answer_ids) for row in rows)


def test_every_number_is_that_of_a_whole_evaluation(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Importance shares no prompts, and trees round in another way.
    monkeypatch.setattr("tasks.core.evaluation.likelihoods.longest_tree", lambda _: 0)
    tuned = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=chain.tune(learning_rate=1e-2))
    # In this process, whose number of threads decides how sums are rounded.
    work = Work(tmp_path, tmp_path, chain.store)
    summary = importance.compute(work, chain.model, chain.task, tuned, pairs=True, max_tokens=100)
    found, network = load_file(tmp_path / "importance.safetensors"), load_model(chain.model)
    every = range(NUM_BLOCKS)
    for arguments, name in [({}, "loss"), ({"tuned": tuned}, "tuned_loss")]:
        whole = validate.compute(work, chain.model, chain.task, **arguments, max_tokens=100)
        assert float(found[name]) == pytest.approx(whole["loss"], rel=1e-12)
    for index in every:
        without = rearranged(network, [(other, False) for other in every if other != index])
        assert float(found["deleted"][index]) == pytest.approx(loss_of(chain, without), rel=1e-12)
    swapped = rearranged(network, [(4 if place == 1 else place, False) for place in every])
    assert float(found["pairs"][1, 4]) == pytest.approx(loss_of(chain, swapped), rel=1e-12)
    assert torch.equal(found["pairs"].diagonal(), found["loss"].expand(NUM_BLOCKS))
    assert torch.equal(found["pairs_stderr"].diagonal(), torch.zeros(NUM_BLOCKS, dtype=torch.float64))
    assert (found["deleted_stderr"] > 0).all()
    blocks = list(chain.read_plan(chain.plan).tuned)
    assert found["tuned_blocks"].tolist() == sorted(blocks)
    assert found["rewound"].shape == found["rewound_stderr"].shape == (len(blocks),)
    assert (found["rewound"] != found["tuned_loss"]).all()
    added = found["deleted"] - found["loss"]
    assert summary["most_important"] == int(added.argmax())
    assert summary["largest_increase"] == float(added.max())
    for loss, name in [("loss", "perplexity"), ("tuned_loss", "tuned_perplexity")]:
        assert summary[name] == pytest.approx(math.exp(float(found[loss])))
    assert summary["largest_perplexity"] == pytest.approx(math.exp(float(found["deleted"].max())))
    assert summary["smallest_perplexity"] == pytest.approx(math.exp(float(found["deleted"].min())))
    assert (summary["num_rows"], summary["split"]) == (6, "validation")


def test_what_was_not_asked_for_is_not_there(chain: Chain) -> None:
    ref = importance.run(chain.runtime, model=chain.model, task=chain.task, num_rows=3)
    assert chain.tensors(ref, "importance").keys() == {"loss", "deleted", "deleted_stderr"}
    assert ref.summary["num_rows"] == 3
    count = chain.num_computed
    assert importance.run(chain.runtime, model=chain.model, task=chain.task, num_rows=3) == ref
    assert chain.num_computed == count


def test_bad_input(chain: Chain) -> None:
    with pytest.raises(InputError, match="'people': the validation split gives 1 row; take at least 2"):
        importance.run(chain.runtime, model=chain.model, task=people(num_validation=1))
    with torch.no_grad():
        get_blocks(chain.full)[3].fc1.weight[0, 0] = float("nan")
    broken = chain.saved("broken")
    with pytest.raises(InputError, match="the loss of the model is not finite before any block is changed"):
        importance.run(chain.runtime, model=broken, task=chain.task)


def test_blocks_on_disk_give_the_same_artifact(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for streamed in (False, True):
        folder = tmp_path / str(streamed)
        (folder / "scratch").mkdir(parents=True)
        if streamed:
            monkeypatch.setattr("tasks.models.loading.load_model", None)
        work = Work(folder, folder / "scratch", chain.store, streamed=streamed)
        summary = importance.compute(work, chain.model, chain.task, max_tokens=100)
        found.append((summary, load_file(folder / "importance.safetensors")))
    (whole, expected), (summary, tensors) = found
    assert summary == whole
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_what_needs_several_blocks_is_loaded_whole(chain: Chain, tmp_path: Path) -> None:
    tuned = plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=chain.tune(learning_rate=1e-2))
    for name, options in {"pairs": {"pairs": True}, "rewound": {"tuned": tuned}}.items():
        (tmp_path / name / "scratch").mkdir(parents=True)
        work = Work(tmp_path / name, tmp_path / name / "scratch", chain.store, streamed=True)
        importance.compute(work, chain.model, chain.task, **options, max_tokens=100)
        assert name in load_file(tmp_path / name / "importance.safetensors")
