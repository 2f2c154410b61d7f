"""Cluster: decide which blocks the emulator keeps, which of them are tuned, and who stands in for the others."""

import json

from tasks.store.artifacts import Ref
from tasks.store.stage import stage
from tasks.store.work import Work


@stage(packages=("numpy",))
def cluster(
    work: Work,
    *,
    strategy: str,
    num_blocks: int,
    similarity: Ref | None = None,
    estimator: str | None = None,
    num_kept: int | None = None,
    num_tuned: int | None = None,
    linkage: str | None = None,
    share: str | None = None,
    keep_ends: bool | None = None,
    kept: tuple[int, ...] | None = None,
    tuned: tuple[int, ...] | None = None,
) -> dict:
    """The plan of one strategy; arguments that the strategy does not use are left out (and so not part of its key).

    Writes `plan.json` and, for strategies that cluster, `clusters.json`. Errors: InputError for an impossible budget.
    """
    from tasks.core import plan as plans

    if strategy == "crash":
        assert similarity is not None
        clusters = _clusters(work, similarity, estimator or "linear_cka", num_kept or 0, linkage or "boundary")
        plan = plans.crash_plan(clusters, num_tuned or 0, share=share, keep_ends=bool(keep_ends))
        (work.out / "clusters.json").write_text(json.dumps({"clusters": clusters, "linkage": linkage}))
    elif strategy == "uniform":
        plan = plans.uniform_plan(num_blocks, num_kept or 0, num_tuned or 0)
    elif strategy == "fixed":
        plan = plans.fixed_plan(num_blocks, kept or (), tuned or (), share=share)
    else:
        assert strategy == "full", strategy
        plan = plans.full_plan(num_blocks)
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


def _clusters(work: Work, similarity: Ref, estimator: str, num_clusters: int, linkage: str) -> list[list[int]]:
    from safetensors.numpy import load_file

    from tasks.core.clustering import adjacent_clusters

    matrix = load_file(work.open(similarity) / "similarity.safetensors")[estimator]
    # State 0 is the embeddings, which no block made.
    return adjacent_clusters(matrix[1:, 1:], num_clusters, linkage)
