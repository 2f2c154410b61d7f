"""Similarity: every measure of the captured states, each against its formula in float64."""

import logging

import numpy as np
import pytest
import torch

from tasks.core.cka import ESTIMATORS
from tasks.core.errors import InputError
from tasks.similarity import similarity
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, Chain

MATRICES = (*ESTIMATORS, "angular_distance")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("similarity"))


def states(chain: Chain, name: str = "states") -> np.ndarray:
    return chain.tensors(chain.capture(), "states")[name].double().numpy()


def found(chain: Chain, name: str) -> np.ndarray:
    return chain.tensors(chain.similar, "similarity")[name].double().numpy()


def plain_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Kornblith et al. 2019, with the features themselves."""
    first, second = first - first.mean(0), second - second.mean(0)
    across = np.linalg.norm(second.T @ first) ** 2
    return across / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second))


def test_what_is_published(chain: Chain) -> None:
    tensors = chain.tensors(chain.similar, "similarity")
    shapes = dict.fromkeys(MATRICES, (NUM_BLOCKS + 1, NUM_BLOCKS + 1)) | {"block_influence": (NUM_BLOCKS,)}
    shapes |= dict.fromkeys(("largest_share", "largest_channel"), (NUM_BLOCKS + 1,))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert chain.similar.summary["num_blocks"] == NUM_BLOCKS
    assert chain.similar.summary["num_rows"] == NUM_ROWS


def test_cka_is_the_formula_for_every_pair(chain: Chain) -> None:
    expected = [[plain_cka(first, second) for second in states(chain)] for first in states(chain)]
    np.testing.assert_allclose(found(chain, "linear_cka"), expected, atol=1e-5)


def test_angles_are_between_last_tokens(chain: Chain) -> None:
    units = states(chain, "last")
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    expected = np.arccos(np.clip(np.einsum("ird,jrd->ijr", units, units), -1, 1)).mean(-1) / np.pi
    np.testing.assert_allclose(found(chain, "angular_distance"), expected, atol=1e-3)


@pytest.mark.parametrize("name", MATRICES)
def test_laws_of_every_matrix(chain: Chain, name: str) -> None:
    matrix = found(chain, name)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    itself = 0.0 if name == "angular_distance" else 1.0
    np.testing.assert_allclose(np.diag(matrix), itself, atol=1e-3)
    assert not np.allclose(matrix, itself, atol=1e-2), "blocks differ"


def test_influence_is_handed_on(chain: Chain) -> None:
    assert np.array_equal(found(chain, "block_influence"), states(chain, "block_influence"))


def test_a_channel_that_holds_most_of_the_variance_is_named(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    assert "one channel" not in caplog.text
    shares = chain.tensors(chain.similar, "similarity")["largest_share"]
    assert shares.max() < 0.5
    loud = Chain(chain.store.root.parent / "loud")
    with torch.no_grad():
        # What block 2 writes there, all later blocks have.
        loud.full.model.decoder.layers[2].fc2.weight[5] *= 1000
    loud.model = loud.saved("massive")
    with caplog.at_level(logging.WARNING):
        found = loud.tensors(loud.similar, "similarity")
    assert found["largest_channel"][3:].tolist() == [5] * (NUM_BLOCKS - 2)
    assert "Behind 4 of 6 blocks, one channel (number 5) holds more than half" in caplog.text


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_summary_is_of_the_blocks_by_the_estimator_of_the_plan(chain: Chain, estimator: str) -> None:
    ref = similarity.run(chain.runtime, states=chain.capture(), estimator=estimator)
    adjacent = [found(chain, estimator)[block, block + 1] for block in range(1, NUM_BLOCKS)]
    assert ref.summary["estimator"] == estimator
    assert ref.summary["lowest_adjacent"] == pytest.approx(min(adjacent))
    assert ref.summary["highest_adjacent"] == pytest.approx(max(adjacent))


def test_a_second_call_is_a_hit(chain: Chain) -> None:
    first, count = chain.similar, chain.num_computed
    assert similarity.run(chain.runtime, states=chain.capture(), estimator="linear_cka") == first
    assert chain.num_computed == count


def test_too_few_rows_are_refused_and_nothing_is_published(chain: Chain) -> None:
    few, count = chain.capture(num_rows=3), chain.num_artifacts("similarity")
    with pytest.raises(InputError, match=r"3 rows are too few .*give at least 4"):
        similarity.run(chain.runtime, states=few, estimator="linear_cka")
    assert chain.num_artifacts("similarity") == count
