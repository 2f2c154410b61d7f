"""Single: states of every block alone, in the file that `similarity` reads."""

import pytest
import torch

from tasks.capture_single import single
from tasks.similarity import similarity
from tasks.store.artifacts import Ref
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, SUPPORT, WIDTH, Chain

ALONE = {name: value for name, value in SUPPORT.items() if name != "final_norm"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def states(chain: Chain) -> Ref:
    return single.run(chain.runtime, model=chain.model, task=chain.task, **ALONE)


def test_what_is_published_has_the_shape_of_captured_states(chain: Chain, states: Ref) -> None:
    alone, captured = chain.tensors(states, "states"), chain.tensors(chain.capture(), "states")
    assert {name: tensor.shape for name, tensor in alone.items()} == {
        name: tensor.shape for name, tensor in captured.items()
    }
    assert states.summary == {"num_blocks": NUM_BLOCKS, "num_rows": NUM_ROWS, "width": WIDTH, "num_truncated": 0}
    for name in ("states", "last"):
        torch.testing.assert_close(alone[name][:2], captured[name][:2], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(alone[name][2], captured[name][2], atol=1e-2)


def test_similar_blocks_are_clustered_wherever_they_are(chain: Chain, states: Ref) -> None:
    """Blocks 1 and 4 are made twins: alone they do the same, whatever lies between them."""
    layers = chain.full.model.decoder.layers
    layers[4].load_state_dict(layers[1].state_dict())
    twins = single.run(chain.runtime, model=chain.saved("twins"), task=chain.task, **ALONE)
    assert twins.key != states.key
    similar = similarity.run(chain.runtime, states=twins, estimator="linear_cka")
    matrix = chain.tensors(similar, "similarity")["linear_cka"]
    assert matrix[2, 5] == pytest.approx(1, abs=1e-5)
    options = {"num_blocks": NUM_BLOCKS, "num_kept": NUM_BLOCKS - 1, "num_tuned": 2, "linkage": "average"}
    ref = chain.cluster(strategy="single", similarity=similar, estimator="linear_cka", share="all", **options)
    plan = chain.read_plan(ref)
    # The centre of 1 and 4 is the upper one; below, at 1, the nearest kept block stands in.
    assert plan.kept == (0, 2, 3, 4, 5)
    assert plan.share == "all"
    written = (chain.open(ref) / "single_clusters.json").read_text()
    assert written == '{"clusters": [[0], [1, 4], [2], [3], [5]], "linkage": "average"}'


def test_a_second_call_is_a_hit(chain: Chain, states: Ref) -> None:
    count = chain.num_computed
    assert single.run(chain.runtime, model=chain.model, task=chain.task, **ALONE) == states
    assert chain.num_computed == count
