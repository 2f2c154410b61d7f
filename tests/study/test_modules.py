"""Structure: what is stored is what the maths says of the captured states, and states without any are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.cka import linear_cka
from tasks.core.errors import InputError
from tasks.core.study.modularity import Cuts, modularity_score
from tasks.store.artifacts import Ref
from tasks.study.modules import structure
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, Chain
from tests.tasks.states import published_states, random_states


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("structure"))


def run(chain: Chain, states: Ref, **changes: Any) -> Ref:
    options = {"estimator": "debiased_cka", "num_bootstraps": 5, "num_samples": (6, 9, 512)}
    return structure.run(chain.runtime, states=states, **options | changes)


def test_numbers_are_those_of_the_captured_blocks(chain: Chain) -> None:
    ref = run(chain, chain.capture())
    found, facts = chain.tensors(ref, "structure"), ref.summary
    states = chain.tensors(chain.capture(), "states")["states"]
    expected = linear_cka(states[1:], debiased=True)
    torch.testing.assert_close(found["similarity"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["adjacent"], expected.diagonal(1), atol=1e-5, rtol=0)
    cuts = Cuts(found["similarity"])
    np.testing.assert_allclose(found["gains"], cuts.gains, atol=1e-5)
    cut = cuts.into(facts["num_runs"])
    assert found["module"].tolist() == [number for number, run in enumerate(cut) for _ in run]
    assert facts["modularity"] == pytest.approx(modularity_score(found["similarity"], cut), abs=1e-5)
    assert (facts["num_blocks"], facts["num_rows"]) == (NUM_BLOCKS, NUM_ROWS)
    assert 0 < facts["p_value"] <= 1


def test_where_chance_does_as_well_only_the_number_of_modules_says_so(chain: Chain) -> None:
    """States without modules: score, its spread and the stability are those of the best cut, whatever its p."""
    generator = torch.Generator().manual_seed(4)
    ref = run(chain, published_states(chain.store, torch.randn(11, 40, 8, generator=generator)))
    found, facts = chain.tensors(ref, "structure"), ref.summary
    assert facts["p_value"] > 0.05
    assert facts["num_modules"] == 1
    assert facts["num_runs"] == len(set(found["module"].tolist())) > 1
    assert facts["modularity"] > 0.0
    assert facts["modularity_deviation"] > 0.0
    assert facts["stability"] < 1.0
    assert (found["agreement_by_size"][:2] < 1.0).all()
    assert facts["same_number"] == pytest.approx((found["counts"] == facts["num_runs"]).float().mean().item())


def test_sizes_end_with_all_rows_and_larger_ones_are_left_out(chain: Chain) -> None:
    found = chain.tensors(run(chain, chain.capture()), "structure")
    assert found["num_samples"].tolist() == [6, 9, NUM_ROWS]
    assert found["adjacent_by_size"].shape == found["adjacent_deviation_by_size"].shape == (3, NUM_BLOCKS - 1)
    assert torch.equal(found["adjacent_by_size"][-1], found["adjacent"])
    assert (found["adjacent_deviation_by_size"][:2] > 0).all()
    assert found["agreement_by_size"][-1] == 1.0
    assert found["boundaries"].shape == (NUM_BLOCKS - 1,)
    assert found["together"].diagonal().tolist() == pytest.approx([1.0] * NUM_BLOCKS)


def test_a_second_call_is_a_hit(chain: Chain) -> None:
    first, count = run(chain, chain.capture()), chain.num_computed
    assert run(chain, chain.capture()) == first
    assert chain.num_computed == count


def test_degenerate_states_are_refused_and_named(chain: Chain) -> None:
    count = chain.num_artifacts("structure")
    with pytest.raises(InputError, match="1 rows are too few to compare representations"):
        run(chain, chain.capture(num_rows=1))
    with pytest.raises(InputError, match="estimator = 'angular_distance'; choose from linear_cka"):
        run(chain, chain.capture(), estimator="angular_distance")
    with pytest.raises(InputError, match="1 resamples show no spread"):
        run(chain, chain.capture(), num_bootstraps=1)
    constant, broken = random_states(), random_states(seed=1)
    constant[3], broken[5, 2, 1] = 2.0, torch.nan
    with pytest.raises(InputError, match="block 2 is the same for every row"):
        run(chain, published_states(chain.store, constant))
    with pytest.raises(InputError, match="block 4 holds NaN or infinite values"):
        run(chain, published_states(chain.store, broken))
    with pytest.raises(InputError, match="2 blocks are too few to tell modules apart"):
        run(chain, published_states(chain.store, random_states(num_states=3)))
    assert chain.num_artifacts("structure") == count
