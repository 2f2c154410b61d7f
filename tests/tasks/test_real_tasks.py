"""Every published question-answering task, on rows of its form: loaded, tuned for two steps, plugged in and scored."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.core.blocks.surgery import plug_in, tuned_state, with_layout
from tasks.core.plan.layout import uniform_plan
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tasks.data.scoring import score
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tests.store.inputs import QA_TASKS, random_opt, real_task, stories

SETTINGS = TrainSettings(learning_rate=1e-2, num_steps=2, batch_size=4, schedule="constant")


@pytest.fixture(scope="module")
def sources(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A real trained model, and a random one with a tokenizer of OPT's form."""
    return {"llama": stories(real_data), "opt": random_opt(real_data, tmp_path_factory.mktemp("opt"))}


@pytest.mark.parametrize("name", QA_TASKS)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_two_steps_then_scored(real_data: Path, sources: dict[str, ModelSource], family: str, name: str) -> None:
    source, task = sources[family], real_task(real_data, name, num_test=4)
    tokenizer = load_tokenizer(source)
    model = load_model(source, "float32")
    plan = uniform_plan(source.num_blocks, num_kept=3, num_tuned=2)
    emulator = with_layout(model, plan)
    rows = load_examples(task, "train", tokenizer, source.context).rows
    assert len(rows) == 12
    losses: list[float] = []
    # The same four rows twice: the second loss must be the smaller one.
    train(
        TunedBlocks(emulator, plan),
        rows[:4],
        [],
        replace(SETTINGS, seed=1),
        device="cpu",
        on_metrics=lambda step, values: losses.append(values["loss"]),
        pad_id=tokenizer.pad_token_id or 0,
    )
    assert losses[1] < losses[0] - 0.01
    plugged = plug_in(model, tuned_state(emulator, plan), plan)
    for network in (model, emulator, plugged):
        found = score(network, tokenizer, task, max_length=source.context, max_tokens=4096)
        assert all(math.isfinite(value) for value in found.metrics.values()), found.metrics
        assert found.num_rows == 4
    ids = torch.tensor([list(rows[0].prompt_ids[:16])])
    assert not torch.equal(plugged(ids).logits, model(ids).logits)
