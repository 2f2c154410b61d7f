"""Cluster: make the plan, i.e. which blocks are kept, which of them are tuned, and which stand in for removed ones."""

import json
from typing import Any

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
) -> dict:
    """Make the plan of one strategy. Arguments that the strategy does not use are left out, so that they are in no key.

    similarity: of the support set's states, or for `single` of those of each block alone; dropped: of iterative_drop.
    Writes `plan.json` and, where adjacent blocks are clustered, `clusters.json`; for `single`, `single_clusters.json`.

    Raises:
        InputError: when the budget is impossible.
    """
    from tasks.core.plan.layout import full_plan
    from tasks.core.plan.registry import make_plan

    if strategy == "full":
        plan = full_plan(num_blocks)
    else:
        evidence = _evidence(work, strategy, num_blocks, similarity, dropped, estimator, num_kept or 0, linkage)
        options: dict[str, Any] = {
            "num_blocks": num_blocks,
            "num_kept": num_kept,
            "num_tuned": num_tuned,
            "share": share,
        }
        options |= {"keep_ends": keep_ends, "kept": kept, "tuned": tuned, "placement": placement}
        plan = make_plan(strategy, evidence, options | {"deviation": deviation, "seed": seed})
    (work.out / "plan.json").write_text(plan.to_json())
    return {
        "strategy": strategy,
        "num_blocks": num_blocks,
        "num_kept": len(plan.kept),
        "kept": list(plan.kept),
        "tuned": list(plan.tuned),
        "share": plan.share,
        "depth": len(plan.layout),
    }


def _evidence(
    work: Work,
    strategy: str,
    num_blocks: int,
    similarity: Ref | None,
    dropped: Ref | None,
    estimator: str | None,
    num_kept: int,
    linkage: str | None,
) -> Any:
    """Return the evidence that the strategy's plan is made from."""
    from safetensors.numpy import load_file

    from tasks.core.clustering import adjacent_clusters, similar_clusters
    from tasks.core.plan.registry import needed

    needs = needed(strategy)
    if needs == "num_blocks":
        return num_blocks
    if needs == "dropped":
        assert dropped is not None
        return json.loads((work.open(dropped) / "dropped.json").read_text())
    assert similarity is not None
    matrices = load_file(work.open(similarity) / "similarity.safetensors")
    if needs in ("block_influence", "angular_distance"):
        return matrices[needs]
    # Without state 0, the embeddings, which is not the output of a block.
    matrix = matrices[estimator or "linear_cka"][1:, 1:]
    if needs == "clusters":
        clusters, linkage = adjacent_clusters(matrix, num_kept, linkage or "boundary"), linkage or "boundary"
    else:
        clusters, linkage = similar_clusters(matrix, num_kept, linkage or "average"), linkage or "average"
    (work.out / f"{needs}.json").write_text(json.dumps({"clusters": clusters, "linkage": linkage}))
    return clusters
