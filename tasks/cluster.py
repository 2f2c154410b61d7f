"""Cluster: make the plan, i.e. which blocks are kept, which of them are tuned, and which stand in for removed ones."""

from typing import Any

from tasks.artifacts.clusters import write_clusters
from tasks.artifacts.dropped_blocks import read_dropped
from tasks.artifacts.harmonizers import read_block_scores
from tasks.artifacts.plan import PlanSummary, summarise_plan, write_plan
from tasks.artifacts.similarity import read_similarity
from tasks.artifacts.stand_in_errors import read_stand_in_errors
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("numpy",))
def cluster(
    work: Work,
    *,
    strategy: str,
    num_blocks: int,
    similarity: Ref | None = None,
    dropped: Ref | None = None,
    stand_in_errors: Ref | None = None,
    harmonizers: Ref | None = None,
    estimator: str | None = None,
    num_kept: int | None = None,
    num_tuned: int | None = None,
    linkage: str | None = None,
    share: str | None = None,
    keep_ends: bool | None = None,
    kept: tuple[int, ...] | None = None,
    tuned: tuple[int, ...] | None = None,
    placement: str | None = None,
    deviation: float | None = None,
    seed: int | None = None,
) -> PlanSummary:
    """Make the plan of one strategy. Arguments that the strategy does not use are left out, so that they are in no key.

    similarity: of the support set's states, or for `single` of those of each block alone; dropped, stand_in_errors,
    harmonizers: of the stages that give `iterative_drop`, `spans` and `scaleot` their evidence.
    Writes `plan.json` and, where adjacent blocks are clustered, `clusters.json`; for `single`, `single_clusters.json`.

    Raises:
        InputError: when the budget is impossible.
    """
    from tasks.core.plan.layout import full_plan
    from tasks.core.plan.registry import make_plan, needed

    if strategy == "full":
        plan = full_plan(num_blocks)
    else:
        refs = {"dropped": dropped, "stand_in_errors": stand_in_errors, "block_scores": harmonizers}
        given = refs.get(needed(strategy), similarity)
        evidence = _evidence(work, strategy, num_blocks, given, estimator, num_kept or 0, linkage)
        options: dict[str, Any] = {
            "num_blocks": num_blocks,
            "num_kept": num_kept,
            "num_tuned": num_tuned,
            "share": share,
        }
        options |= {"keep_ends": keep_ends, "kept": kept, "tuned": tuned, "placement": placement}
        plan = make_plan(strategy, evidence, options | {"deviation": deviation, "seed": seed})
    write_plan(work.out, plan)
    return summarise_plan(strategy, plan)


def _evidence(
    work: Work,
    strategy: str,
    num_blocks: int,
    given: Ref | None,
    estimator: str | None,
    num_kept: int,
    linkage: str | None,
) -> Any:
    """Return the evidence that the strategy's plan is made from. given: the artifact that it is read from."""
    from tasks.core.clustering import adjacent_clusters, similar_clusters
    from tasks.core.plan.registry import needed

    needs = needed(strategy)
    if needs == "num_blocks":
        return num_blocks
    assert given is not None, f"{strategy} needs {needs}"
    if needs == "dropped":
        return read_dropped(work.open(given))
    if needs == "stand_in_errors":
        return read_stand_in_errors(work.open(given))["effects"]
    if needs == "block_scores":
        return read_block_scores(work.open(given))
    matrices = read_similarity(work.open(given))
    if needs in ("block_influence", "angular_distance"):
        return matrices[needs]
    # Without state 0, the embeddings, which is not the output of a block.
    matrix = matrices[estimator or "linear_cka"][1:, 1:]
    if needs == "clusters":
        clusters, linkage = adjacent_clusters(matrix, num_kept, linkage or "boundary"), linkage or "boundary"
    else:
        clusters, linkage = similar_clusters(matrix, num_kept, linkage or "average"), linkage or "average"
    write_clusters(work.out, needs, clusters, linkage)
    return clusters
