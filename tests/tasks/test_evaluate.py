"""Evaluate: each variant is what it says it is, written completely, and the same from the stage as from plain calls."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tasks.core.blocks.surgery import load_tuned, plug_in, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.evaluation.scores import Scores
from tasks.core.plan.layout import Plan, fixed_plan
from tasks.data.lm_eval.model import language_model
from tasks.data.scoring import score
from tasks.data.sources import TaskSource
from tasks.engine.work import Work
from tasks.evaluate import evaluate
from tasks.models.emulators.emulator import write_emulator
from tasks.models.loading import load_model, load_tokenizer
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref, Store
from tests.store.inputs import real_task, stock_yaml, stories

PLAN = fixed_plan(5, kept=(0, 1, 4), tuned=(1, 4), share="all")


class Folders(Work):
    """Work whose parents are plain folders."""

    parents: dict[str, Path]

    def open(self, ref: Ref) -> Path:
        return self.parents[ref.stage]


@pytest.fixture
def model(real_data: Path) -> ModelSource:
    """A real small model."""
    return stories(real_data)


@pytest.fixture
def task(real_data: Path) -> TaskSource:
    """A real task, on which changed weights change log-likelihoods enough to show in perplexity."""
    return real_task(real_data, "wikitext", num_test=1)


@pytest.fixture
def work(tmp_path: Path, model: ModelSource) -> Folders:
    """Work with an emulator folder and a folder of tuned blocks, all different from the model's."""
    for name in ("out", "scratch", "tuned", "store"):
        (tmp_path / name).mkdir()
    write_emulator(Path(model.path), PLAN, tmp_path / "emulator")
    save_file(changed_blocks(model), tmp_path / "tuned" / "tuned.safetensors")
    (tmp_path / "tuned" / "plan.json").write_text(PLAN.to_json())
    work = Folders(tmp_path / "out", tmp_path / "scratch", Store(tmp_path / "store"))
    work.parents = {"emulate": tmp_path / "emulator", "tune": tmp_path / "tuned"}
    return work


def changed_blocks(model: ModelSource) -> dict[str, torch.Tensor]:
    """Tuned blocks: the model's own, each value made smaller."""
    state = tuned_state(with_layout(load_model(model), PLAN), PLAN)
    return {name: (tensor * 0.9).contiguous() for name, tensor in state.items()}


EMULATOR = Ref(stage="emulate", key="0", digest="0")
TUNED = Ref(stage="tune", key="0", digest="0")


def plain_scores(model: ModelSource, task: TaskSource, variant: Any) -> Scores:
    """Scores of a model object."""
    return score(variant, load_tokenizer(model), task, max_length=model.context)


def by_hand(model: ModelSource, emulator: bool, tuned: bool) -> Any:
    """The variant made in memory from the full model."""
    full, state = load_model(model), changed_blocks(model)
    if not emulator:
        return plug_in(full, state, PLAN) if tuned else full
    laid_out = with_layout(full, PLAN)
    if tuned:
        load_tuned(laid_out, state, PLAN)
    return laid_out


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("emulator", [False, True])
@pytest.mark.parametrize("tuned", [False, True])
def test_a_variant_scores_as_the_one_made_by_hand(
    work: Folders,
    model: ModelSource,
    task: TaskSource,
    emulator: bool,
    tuned: bool,
    streamed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work.streamed = streamed
    with monkeypatch.context() as patch:
        if streamed:
            patch.setattr("tasks.models.loading.load_model", None)
        summary = evaluate.compute(work, model, task, EMULATOR if emulator else None, TUNED if tuned else None)
    expected = plain_scores(model, task, by_hand(model, emulator, tuned))
    assert summary["value"] == pytest.approx(expected.value, rel=1e-6)
    written = json.loads((work.out / "scores.json").read_text())
    assert written == vars(expected) | {"value": summary["value"], "metrics": written["metrics"]}
    assert (summary["metric"], summary["higher_is_better"], summary["num_rows"]) == ("word_perplexity", False, 1)


def test_variants_differ(work: Folders, model: ModelSource, task: TaskSource) -> None:
    values = {
        evaluate.compute(work, model, task, emulator, tuned)["value"]
        for emulator in (None, EMULATOR)
        for tuned in (None, TUNED)
    }
    assert len(values) == 4


def test_a_task_with_accuracy(work: Folders, model: ModelSource, real_data: Path) -> None:
    summary = evaluate.compute(work, model, real_task(real_data, "arc_easy"), precision="bfloat16", max_tokens=700)
    assert summary["metric"] == "acc"
    assert 0 <= summary["value"] <= 1
    assert summary["stderr"] > 0
    assert len(json.loads((work.out / "scores.json").read_text())["per_row"]) == summary["num_rows"] == 12


def test_an_emulator_that_only_guesses_is_named(
    work: Folders, model: ModelSource, real_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = real_task(real_data, "arc_easy")
    for emulator, tuned in ((None, None), (EMULATOR, TUNED)):
        evaluate.compute(work, model, task, emulator, tuned)
    assert "guessing" not in caplog.text
    evaluate.compute(work, model, task, EMULATOR)
    assert "not better than guessing (0.25) by two standard errors: this emulator" in caplog.text


@pytest.mark.parametrize("streamed", [False, True])
def test_tuned_blocks_of_another_model_are_refused(
    work: Folders, model: ModelSource, task: TaskSource, streamed: bool
) -> None:
    work.streamed = streamed
    other = Plan.from_json(fixed_plan(6, kept=(0, 1, 4), tuned=(1, 4)).to_json())
    (work.parents["tune"] / "plan.json").write_text(other.to_json())
    with pytest.raises(InputError, match=r"of a model with 6 blocks, .* has 5"):
        evaluate.compute(work, model, task, None, TUNED)


def test_generated_text_needs_the_whole_model(model: ModelSource) -> None:
    scorer = language_model(
        load_model(model), load_tokenizer(model), 64, 64, lambda items, **_: iter(items), tensors={}
    )
    with pytest.raises(InputError, match=r"generated text needs the whole model in memory"):
        scorer.generate_until([])


def test_the_model_of_the_key_is_its_content(model: ModelSource, task: TaskSource) -> None:
    renamed = model.model_copy(update={"name": "another name", "path": "/another/place"})
    assert evaluate.key(model=model, task=task)[0] == evaluate.key(model=renamed, task=task)[0]
    other = model.model_copy(update={"weights": "0" * 64})
    assert evaluate.key(model=model, task=task)[0] != evaluate.key(model=other, task=task)[0]
    shorter = task.model_copy(update={"num_test": 2})
    assert evaluate.key(model=model, task=task)[0] != evaluate.key(model=model, task=shorter)[0]


def test_the_stock_command_gives_the_same_numbers_on_the_saved_model(
    work: Folders, model: ModelSource, real_data: Path, tmp_path: Path
) -> None:
    """`lm-eval run` on the plugged-in model, saved as a plain folder: its loader, its tokenising, its batches."""
    by_hand(model, emulator=False, tuned=True).save_pretrained(tmp_path / "saved")
    for file in Path(model.path).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "saved")
    stock_yaml(real_data, tmp_path / "yaml", ["openbookqa"])
    arguments = {
        "--model": "hf",
        "--model_args": f"pretrained={tmp_path / 'saved'},dtype=float32",
        "--tasks": "openbookqa",
        "--include_path": str(tmp_path / "yaml"),
        "--limit": "12",
        "--device": "cpu",
        "--output_path": str(tmp_path / "result.json"),
    }
    command = [sys.executable, "-m", "lm_eval", "run", *(part for pair in arguments.items() for part in pair)]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert answer.returncode == 0, answer.stderr[-2000:]
    [written] = tmp_path.glob("result*.json")
    theirs = json.loads(written.read_text())["results"]["openbookqa"]

    summary = evaluate.compute(work, model, real_task(real_data, "openbookqa"), None, TUNED)
    assert summary["value"] == pytest.approx(theirs["acc,none"])
    assert summary["stderr"] == pytest.approx(theirs["acc_stderr,none"])
    assert summary["acc_norm"] == pytest.approx(theirs["acc_norm,none"])
