"""Cluster: the plan of each strategy, and budgets that no plan can meet."""

import json

import pytest

from tasks.cluster import cluster
from tasks.core.clustering import adjacent_clusters
from tasks.core.errors import InputError
from tasks.core.plan.by_similarity import angular_plan, block_influence_plan
from tasks.core.plan.layout import Plan, crash_plan, fixed_plan, full_plan, uniform_plan
from tasks.core.plan.registry import make_plan
from tasks.similarity import similarity
from tasks.store.artifacts import Ref
from tests.tasks.chain import CRASH, NUM_BLOCKS, Chain

UNIFORM = {"strategy": "uniform", "num_blocks": NUM_BLOCKS, "num_kept": 4, "num_tuned": 2}
FIXED = {"strategy": "fixed", "num_blocks": NUM_BLOCKS, "kept": (0, 3, 5), "tuned": (0, 5), "share": "frozen_only"}
FULL = {"strategy": "full", "num_blocks": NUM_BLOCKS}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("cluster"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (UNIFORM, uniform_plan(NUM_BLOCKS, 4, 2)),
        (FIXED, fixed_plan(NUM_BLOCKS, (0, 3, 5), (0, 5), "frozen_only")),
        (FULL, full_plan(NUM_BLOCKS)),
    ],
    ids=["uniform", "fixed", "full"],
)
def test_strategies_that_need_no_similarity(chain: Chain, arguments: dict, expected: Plan) -> None:
    ref = chain.cluster(**arguments)
    assert chain.read_plan(ref) == expected
    assert {path.name for path in chain.open(ref).iterdir()} == {"plan.json", "manifest.json"}
    require_summary(ref, expected, arguments["strategy"])


OTHERS = {
    "uniform_spread": {"placement": "ends"},
    "uniform_deviation": {"deviation": 0.4},
    "random": {"seed": 3},
    "inverse_normal": {"placement": "explicit", "tuned": (1, 3), "num_tuned": None},
    "reverse": {},
}


@pytest.mark.parametrize("strategy", OTHERS)
def test_what_was_chosen_arrives_in_the_plan(chain: Chain, strategy: str) -> None:
    arguments = UNIFORM | {"share": "frozen_only"} | OTHERS[strategy]
    expected = make_plan(strategy, NUM_BLOCKS, arguments)
    ref = chain.cluster(**arguments | {"strategy": strategy})
    assert chain.read_plan(ref) == expected
    assert expected.share == "frozen_only"
    require_summary(ref, expected, strategy)


def test_influence_and_angles_are_taken_from_the_similarity(chain: Chain) -> None:
    tensors = chain.tensors(chain.similar, "similarity")
    expected = {
        "block_influence": block_influence_plan(tensors["block_influence"], 3, 2),
        "angular": angular_plan(tensors["angular_distance"], 3, 2),
    }
    for strategy, plan in expected.items():
        arguments = UNIFORM | {"strategy": strategy, "num_kept": 3, "similarity": chain.similar}
        assert chain.read_plan(chain.cluster(**arguments)) == plan


def test_centres_that_are_named_must_be_some(chain: Chain) -> None:
    ref = chain.cluster(**CRASH, similarity=chain.similar)
    kept, centre = chain.read_plan(ref).kept, chain.read_plan(ref).kept[1]
    arguments = CRASH | {"placement": "explicit", "num_tuned": None, "similarity": chain.similar}
    assert chain.read_plan(chain.cluster(**arguments, tuned=(centre,))).tuned == (centre,)
    other = next(block for block in range(NUM_BLOCKS) if block not in kept)
    with pytest.raises(InputError, match=rf"tuned block {other} is not the centre of a cluster; the centres are \[0, "):
        chain.cluster(**arguments, tuned=(other,))


def require_summary(ref: Ref, plan: Plan, strategy: str) -> None:
    """Fail unless the summary says what the plan is."""
    assert ref.summary == {
        "strategy": strategy,
        "num_blocks": NUM_BLOCKS,
        "num_kept": len(plan.kept),
        "kept": list(plan.kept),
        "tuned": list(plan.tuned),
        "share": plan.share,
        "depth": len(plan.layout),
    }


@pytest.mark.parametrize("linkage", ["boundary", "average", "complete", "optimal"])
@pytest.mark.parametrize("estimator", ["linear_cka", "debiased_cka"])
def test_crash_clusters_the_blocks_without_the_embeddings(chain: Chain, linkage: str, estimator: str) -> None:
    matrix = chain.tensors(chain.similar, "similarity")[estimator]
    clusters = adjacent_clusters(matrix[1:, 1:], 3, linkage)
    expected = crash_plan(clusters, 2, share="all")
    arguments = {"num_kept": 3, "linkage": linkage, "estimator": estimator, "similarity": chain.similar}
    ref = chain.cluster(**CRASH | arguments)
    assert chain.read_plan(ref) == expected
    written = json.loads((chain.open(ref) / "clusters.json").read_text())
    assert written == {"clusters": clusters, "linkage": linkage}
    require_summary(ref, expected, "crash")


def test_the_ends_can_be_kept(chain: Chain) -> None:
    plans = {}
    for keep_ends in (False, True):
        ref = chain.cluster(**CRASH | {"num_kept": 2, "keep_ends": keep_ends}, similarity=chain.similar)
        plans[keep_ends] = chain.read_plan(ref)
    assert plans[True].kept == (0, NUM_BLOCKS - 1)
    assert plans[False].kept != plans[True].kept


def test_the_budget_of_all_blocks_keeps_all(chain: Chain) -> None:
    ref = chain.cluster(**CRASH | {"num_kept": NUM_BLOCKS}, similarity=chain.similar)
    plan = chain.read_plan(ref)
    assert plan.kept == tuple(range(NUM_BLOCKS))
    assert plan.layout == tuple((block, block in plan.tuned) for block in range(NUM_BLOCKS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kept": NUM_BLOCKS + 1}, "num_clusters = 7: make between 1 and 6"),
        ({"num_kept": 0}, "num_clusters = 0: make between 1 and 6"),
        ({"num_tuned": 0}, "num_tuned = 0: tune between 1 and 4"),
        ({"num_tuned": 5}, "num_tuned = 5: tune between 1 and 4"),
        ({"num_tuned": 1}, "num_tuned = 1: say which block"),
        ({"share": "some"}, "share = 'some'; choose from"),
        ({"linkage": "single"}, "choose from boundary, average, complete, optimal"),
    ],
)
def test_what_no_plan_can_meet_is_refused_and_nothing_is_published(chain: Chain, change: dict, message: str) -> None:
    similar, count = chain.similar, chain.num_artifacts("cluster")
    with pytest.raises(InputError, match=message) as refused:
        chain.cluster(**CRASH | change, similarity=similar)
    assert refused.value.exit_code == 2
    assert chain.num_artifacts("cluster") == count


def test_a_second_call_is_a_hit_and_other_budgets_are_not(chain: Chain) -> None:
    first = chain.cluster(**UNIFORM)
    count = chain.num_computed
    assert chain.cluster(**UNIFORM) == first
    assert chain.num_computed == count
    assert chain.cluster(**UNIFORM | {"num_tuned": 3}).key != first.key
    assert chain.num_computed == count + 1


def test_the_key_of_a_clustered_plan_follows_the_states(chain: Chain) -> None:
    other = similarity.run(chain.runtime, states=chain.capture(num_rows=8), estimator="linear_cka")
    keys = {cluster.key(**CRASH, similarity=ref)[0] for ref in (chain.similar, other)}
    assert len(keys) == 2
