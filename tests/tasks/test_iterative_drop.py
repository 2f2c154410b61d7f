"""Iterative drop: which blocks go, what is protected, and the plan that is made of it."""

import json

import pytest

from tasks.core.errors import InputError
from tasks.iterative_drop import iterative_drop
from tasks.store.artifacts import Ref
from tests.tasks.chain import NUM_BLOCKS, SUPPORT, Chain

DROP = {"num_kept": 3, "protected": (), "estimator": "linear_cka"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Of a model whose blocks 2 and 4 do nothing but add a constant to their input."""
    chain = Chain(tmp_path_factory.mktemp("iterative_drop"))
    chain.make_idle(2, 4)
    return chain


def drop(chain: Chain, **changes: object) -> Ref:
    return iterative_drop.run(chain.runtime, model=chain.model, task=chain.task, **SUPPORT | DROP | changes)


def test_blocks_that_do_nothing_go_first_and_the_plan_is_without_them(chain: Chain) -> None:
    ref = drop(chain)
    dropped = json.loads((chain.open(ref) / "dropped.json").read_text())
    assert set(dropped[:2]) == {2, 4}
    assert ref.summary["dropped"] == dropped
    assert ref.summary["num_passes"] == len(dropped) == NUM_BLOCKS - 3
    options = {"num_blocks": NUM_BLOCKS, "num_kept": 4, "num_tuned": 2, "share": "all"}
    plan = chain.read_plan(chain.cluster(strategy="iterative_drop", dropped=ref, **options))
    assert (plan.kept, plan.tuned, plan.share) == ((0, 1, 3, 5), (0, 5), "all")


def test_protected_blocks_stay(chain: Chain) -> None:
    ref = drop(chain, protected=(2, 4))
    assert sorted(ref.summary["dropped"]) == [1, 3, 5]


def test_a_second_call_is_a_hit_and_another_budget_is_not(chain: Chain) -> None:
    first, count = drop(chain), chain.num_computed
    assert drop(chain) == first
    assert chain.num_computed == count
    assert drop(chain, num_kept=4).summary["dropped"] == first.summary["dropped"][:2]
    assert chain.num_computed == count + 1


def test_a_budget_that_cannot_be_met_is_refused_and_nothing_is_published(chain: Chain) -> None:
    count = chain.num_artifacts("iterative_drop")
    with pytest.raises(InputError, match=r"num_kept = 1: .* never drops block 0 .*\[0, 3\]; keep at least 2"):
        drop(chain, num_kept=1, protected=(3,))
    assert chain.num_artifacts("iterative_drop") == count
