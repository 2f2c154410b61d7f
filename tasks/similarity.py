"""Similarity: compare the states of every two blocks."""

from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "safetensors"))
def similarity(work: Work, states: Ref, *, estimator: str) -> dict:
    """Compute all measures of similarity between the N+1 captured states.

    Writes `similarity.safetensors`: `linear_cka`, `debiased_cka`, `rbf_cka`, `angular_distance`, each [N+1, N+1] with
    state 0 the embeddings, and `block_influence` [N]. `estimator` names the matrix that plans are made from.
    """
    from safetensors.torch import load_file, save_file

    from tasks.core.cka import angular_distance, linear_cka, rbf_cka

    captured = load_file(work.open(states) / "states.safetensors")
    states_of = captured["states"]
    names = ["the embeddings", *(f"block {index}" for index in range(states_of.shape[0] - 1))]
    matrices = {
        "linear_cka": linear_cka(states_of, names=names),
        "debiased_cka": linear_cka(states_of, debiased=True, names=names),
        "rbf_cka": rbf_cka(states_of, names=names),
        "angular_distance": angular_distance(captured["last"]),
    }
    tensors = {name: matrix.float().contiguous() for name, matrix in matrices.items()}
    save_file(
        {**tensors, "block_influence": captured["block_influence"].contiguous()}, work.out / "similarity.safetensors"
    )
    adjacent = matrices[estimator].diagonal(1)[1:]
    return {
        "estimator": estimator,
        "num_blocks": captured["states"].shape[0] - 1,
        "num_rows": captured["states"].shape[1],
        "lowest_adjacent": float(adjacent.min()),
        "highest_adjacent": float(adjacent.max()),
    }
