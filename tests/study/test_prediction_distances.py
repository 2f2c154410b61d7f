"""Distances: what the stage writes, with a tuned lens and without, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.study.divergences import DISTANCES
from tasks.core.tuning.settings import TrainSettings
from tasks.models.resolving import resolve_model
from tasks.store.artifacts import Ref
from tasks.study.lens import lens
from tasks.study.prediction_distances import distances
from tests.tasks.chain import NUM_BLOCKS, Chain, people, write_model

LENS = TrainSettings(learning_rate=1e-3, num_steps=6, batch_size=4, max_tokens=256)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("distances"))


def measured(chain: Chain, **changes: Any) -> Ref:
    given = {"model": chain.model, "task": chain.task, "num_rows": 8, "split": "train", "num_tokens": 40}
    return distances.run(chain.runtime, **given | {"max_tokens": 128, "precision": "float32"} | changes)


def tuned_lens(chain: Chain) -> Ref:
    given = {"model": chain.model, "task": chain.task, "num_rows": 8, "block": 64, "precision": "float32"}
    return lens.run(chain.runtime, settings=LENS, **given)


def test_what_it_writes(chain: Chain) -> None:
    ref = measured(chain)
    matrices = chain.tensors(ref, "distances")
    assert matrices.keys() == set(DISTANCES)
    for name, matrix in matrices.items():
        assert matrix.shape == (NUM_BLOCKS, NUM_BLOCKS)
        assert not matrix.diagonal().any()
        assert torch.equal(matrix, matrix.T) == (name != "kl")
        assert ref.summary[f"adjacent_{name}"] == pytest.approx(float(matrix.diagonal(1).mean()))
    facts = {"lens": "logit", "num_blocks": NUM_BLOCKS, "num_rows": 8, "split": "train", "num_positions": 40}
    assert facts.items() <= ref.summary.items()


def test_padding_and_batches_change_nothing(chain: Chain) -> None:
    """One pass for all rows, or one for each."""
    together, apart = (chain.tensors(measured(chain, max_tokens=size), "distances") for size in (4096, 1))
    for name, matrix in together.items():
        torch.testing.assert_close(matrix, apart[name], rtol=1e-3, atol=1e-5, msg=name)


def test_under_a_tuned_lens_blocks_are_nearer_to_the_output(chain: Chain) -> None:
    logit, ref = chain.tensors(measured(chain), "distances"), measured(chain, lens=tuned_lens(chain))
    tuned = chain.tensors(ref, "distances")
    assert ref.summary["lens"] == "tuned"
    assert (tuned["kl"][-1, :-1] < logit["kl"][-1, :-1]).all()


def test_what_cannot_be_measured_is_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="these are 1: give more rows"):
        measured(chain, task=people(num_train=1))
    with pytest.raises(InputError, match="1 position to compare predictions at; give two or more"):
        measured(chain, num_tokens=1)
    network, source = write_model(tmp_path / "broken")
    with torch.no_grad():
        network.model.decoder.layers[1].fc2.weight.fill_(math.nan)
    network.save_pretrained(tmp_path / "broken")
    broken = resolve_model(source.path)
    with pytest.raises(InputError, match="the output of block 1 holds NaN"):
        measured(chain, model=broken)
    with pytest.raises(InputError, match="was trained for a model with weights"):
        measured(chain, model=broken, lens=tuned_lens(chain))
