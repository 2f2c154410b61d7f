"""Validate: the loss of each variant on the validation rows, as transformers computes it."""

import json
import math
from typing import Any

import pytest
import torch

from tasks.core.blocks.surgery import load_tuned, plug_in, with_layout
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.plug_in import plug_in as plug_in_stage
from tasks.validate import validate
from tests.tasks.chain import Chain, people


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("validate"))


@torch.no_grad()
def by_hand(chain: Chain, variant: Any) -> tuple[float, int]:
    """(mean loss over answer tokens, their number), one row at a time, from the framework's own loss."""
    examples = load_examples(chain.task, "validation", load_tokenizer(chain.model), chain.model.context)
    total, count = 0.0, 0
    for row in examples.rows:
        ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
        labels = ids.clone()
        labels[:, : len(row.prompt_ids)] = -100
        total += float(variant(ids, labels=labels).loss) * len(row.answer_ids)
        count += len(row.answer_ids)
    return total / count, count


def test_every_variants_loss_is_the_frameworks(chain: Chain) -> None:
    tuned, how = chain.tune(learning_rate=1e-2), chain.read_plan(chain.plan)
    plugged = plug_in_stage.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=tuned)
    emulator, state = chain.emulate(chain.plan), chain.tensors(tuned, "tuned")
    full = load_model(chain.model)
    tuned_emulator = with_layout(full, how)
    load_tuned(tuned_emulator, state, how)
    variants = [
        ({}, full),
        ({"tuned": plugged}, plug_in(full, state, how)),
        ({"emulator": emulator}, with_layout(full, how)),
        ({"emulator": emulator, "tuned": tuned}, tuned_emulator),
    ]
    losses = set()
    for arguments, variant in variants:
        ref = validate.run(chain.runtime, model=chain.model, task=chain.task, **arguments, max_tokens=100)
        loss, count = by_hand(chain, variant)
        assert ref.summary["loss"] == pytest.approx(loss, rel=1e-5)
        assert (ref.summary["num_tokens"], ref.summary["num_rows"]) == (count, 6)
        assert json.loads((chain.open(ref) / "loss.json").read_text()) == ref.summary
        assert ref.summary["stderr"] > 0
        losses.add(round(loss, 5))
    assert len(losses) == 4


def test_the_scored_split_is_not_read(chain: Chain) -> None:
    """Another number of scored rows is another task to every stage that reads it; the loss stays."""
    first = validate.run(chain.runtime, model=chain.model, task=people(num_test=1))
    second = validate.run(chain.runtime, model=chain.model, task=people(num_test=5))
    assert first.summary == second.summary
    fewer = validate.run(chain.runtime, model=chain.model, task=people(num_validation=3))
    assert fewer.summary["num_rows"] == 3
    assert not math.isclose(fewer.summary["loss"], first.summary["loss"])
